//! The shell around [`wire::session::Session`]: reads and writes the control stream and does what the state machine asks for.
//!
//! Work is done by one task per session, in the order in which it was asked, so that an offer never overtakes its volume. The loop
//! below waits in one place; reading pauses while too much work is waiting.

use crate::back;
use crate::catalogue::{Catalogue, CatalogueError, NewCertificate, PolicyRow};
use crate::grants;
use crate::ingest::{self, Outcome, finish, state_refusal};
use crate::live::{Command, LiveSession, Newcomer, code_of};
use crate::policies;
use crate::releases::rollouts;
use crate::seeds::arrive::{self, wait_refusal};
use crate::server::Gateway;
use crate::telemetry;
use quinn::Connection;
use shaping::Class;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::Instrument;
use wire::identity::{Bearer, PeerIdentity};
use wire::message::{Answer, Ask, Found, FromEdge, FromGateway, Hello, Refusal, Welcome};
use wire::release::{Appliance, Order};
use wire::session::{Action, Event, Session};
use wire::stream::{self, CloseCode, FrameReader, FrameWriter, StreamError};
use wire::version::Version;

/// Work of one session that may wait before its messages are read no further.
const BACKLOG: usize = 32;
/// How often the state machine hears that time has passed.
const TICK: Duration = Duration::from_secs(5);
/// How long the last message has to arrive before the connection is closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs one control session to its end. What is logged of it says which session of which site it is about, once that is known.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    connection: (Connection, shaping::Peer),
    version: Version,
    peer: PeerIdentity,
    streams: (FrameWriter, FrameReader),
) {
    let span = tracing::info_span!("session", session = tracing::field::Empty, site = tracing::field::Empty);
    serve(gateway, connection, version, peer, streams).instrument(span).await;
}

async fn serve(
    gateway: Arc<Gateway>,
    (connection, line): (Connection, shaping::Peer),
    version: Version,
    peer: PeerIdentity,
    (mut writer, mut reader): (FrameWriter, FrameReader),
) {
    let mut session = Session::new(version, gateway.state.now());
    let (commands_in, mut commands) = mpsc::channel(BACKLOG);
    let (jobs, jobs_out) = mpsc::channel(BACKLOG);
    let (events_in, mut events) = mpsc::channel(BACKLOG);
    let worker = Worker {
        gateway: gateway.clone(),
        connection: connection.clone(),
        line,
        version,
        peer,
        commands: commands_in,
        live: None,
        policy_told: 0,
    };
    let worker = gateway.tasks.spawn(worker.run(jobs_out, events_in).in_current_span());
    let (mut waiting, mut welcomed) = (0, false);
    let mut tick = tokio::time::interval(TICK);
    let why = loop {
        // Every branch is cancel-safe: receiving from channels, `FrameReader::next`, an interval and a token.
        let event = tokio::select! {
            () = gateway.stop.cancelled() => break None,
            Some(command) = commands.recv() => match command {
                // The welcome comes first; what the edge then says of its policy and its volumes brings the newer ones.
                Command::Say(FromGateway::Policy(_) | FromGateway::Holding { .. } | FromGateway::Seeds(_))
                    if !welcomed =>
                {
                    continue;
                }
                Command::Say(message) => match writer.send(&message).await {
                    Ok(()) => continue,
                    Err(_) => break None,
                },
                Command::End(why) => Event::End(why),
            },
            Some(event) = events.recv() => { waiting -= 1; match event { Some(event) => event, None => continue } },
            heard = reader.next::<FromEdge>(), if waiting < BACKLOG => match heard {
                Ok(Some(message)) => Event::Said(message),
                Ok(None) | Err(StreamError::Ended(_) | StreamError::Stopped(_)) => break None,
                Err(error) => Event::End(Refusal::Protocol(error.to_string())),
            },
            _ = tick.tick() => Event::Tick,
        };
        let mut end = None;
        for action in session.step(event, gateway.state.now()) {
            match action {
                Action::Send(message) => {
                    if let FromGateway::Refuse { why, .. } | FromGateway::Bye { why } = &message {
                        gateway.metrics.refused(why);
                    }
                    welcomed |= matches!(message, FromGateway::Welcome(_));
                    if writer.send(&message).await.is_err() {
                        end = Some(None);
                    }
                }
                Action::Close(why) => end = Some(Some(why)),
                job => {
                    waiting += 1;
                    // Never full: reading stops at as many waiting jobs as there is room for.
                    let _the_worker_is_gone = jobs.send(job).await;
                }
            }
        }
        if let Some(end) = end {
            break end;
        }
    };
    drop(jobs);
    drop(events); // what the worker still does is not waited for by anybody
    let _ended = worker.await;
    match why {
        Some(why) => {
            tracing::info!(site = %peer.bearer.site, %why, "session ended by the gateway");
            let _heard = tokio::time::timeout(FAREWELL, writer.finish_and_wait()).await;
            stream::close(&connection, code_of(&why), &why.to_string());
        }
        None if gateway.stop.is_cancelled() => stream::close(&connection, CloseCode::Stopping, "the gateway stops"),
        None => stream::close(&connection, CloseCode::Done, "the session is over"),
    }
}

/// Does the work of one session, in order.
struct Worker {
    gateway: Arc<Gateway>,
    connection: Connection,
    /// What the connection draws on.
    line: shaping::Peer,
    version: Version,
    peer: PeerIdentity,
    commands: mpsc::Sender<Command>,
    live: Option<Arc<LiveSession>>,
    /// Version of the policy that was answered last: what an edge refuses it does not get again and again.
    policy_told: u64,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::Receiver<Action>, events: mpsc::Sender<Option<Event>>) {
        while let Some(job) = jobs.recv().await {
            let event = match self.perform(job).await {
                Ok(event) => event,
                Err(why) => Some(Event::End(why)),
            };
            if events.send(event).await.is_err() {
                break; // the session is over
            }
        }
        if let Some(live) = self.live.take() {
            self.gateway.live.leave(&live);
            self.note_seen(&live.software).await;
        }
    }

    /// What there is to say about a piece of work. `Err` ends the session.
    async fn perform(&mut self, job: Action) -> Result<Option<Event>, Refusal> {
        let site = self.peer.bearer.site;
        if let Action::Admit(hello) = job {
            return self.admit(hello).await.map(Some);
        }
        let live = self.live.clone().ok_or(Refusal::Protocol("work before the welcome".into()))?;
        let (tenant, state) = (live.tenant.clone(), self.gateway.state.clone());
        if tenant.has_failed() {
            return Err(Refusal::Internal("the tenant's store is being opened anew".into()));
        }
        let incoming = self.gateway.pool.incoming().clone();
        let reply = match job {
            Action::Announce(offer) => {
                live.ask_for_repairs();
                let held = blocking(move || ingest::announce(&state, &tenant, site, &offer)).await?;
                Some(if self.version < Version::V6 { ingest::without_promises(held) } else { held })
            }
            Action::Prepare(offer) => {
                let id = offer.generation;
                let prepared = blocking(move || ingest::prepare(&state, &tenant, site, &offer, &incoming)).await;
                Some(match prepared {
                    Ok((receiving, next_parcel)) => {
                        if let Some(receiving) = receiving {
                            live.receive(id, receiving);
                            self.gateway.work.notify_one(); // the line is dealt out anew
                        }
                        FromGateway::Accept { generation: id, next_parcel }
                    }
                    Err(why) => FromGateway::Refuse { generation: id, why },
                })
            }
            Action::Seal { generation, parcels, root } => {
                let word = (parcels, root);
                let sealed = blocking(move || ingest::seal(&state, &tenant, site, generation, word, &incoming)).await;
                Some(self.sealed(&live, generation, sealed))
            }
            Action::Abandon(id) => {
                live.stop_receiving(id);
                blocking(move || ingest::abandon(&state, &tenant, site, id, &incoming)).await?;
                None
            }
            Action::Look(ask) => Some(FromGateway::Answer(blocking(move || look(&live, &ask)).await?)),
            Action::Renew(request) => Some(self.renew(request).await?),
            Action::Fetch { id, generation, blocks } => {
                Some(blocking(move || ingest::fetch(&tenant, site, id, generation, &blocks)).await?)
            }
            Action::Repair { id, generation, parcel } => {
                match live.take_repair(id, generation) {
                    true if parcel.is_empty() => {
                        tracing::warn!(%site, %generation, "the edge has damaged blocks no more: this generation cannot be mended");
                    }
                    true => {
                        let mended = blocking(move || ingest::repair(&tenant, site, generation, &parcel)).await?;
                        self.gateway.metrics.mended.inc_by(mended.into());
                    }
                    false => {}
                }
                live.ask_for_repairs();
                None
            }
            Action::Note(status) => {
                live.set_status(status);
                Some(FromGateway::Time { now: state.now() })
            }
            Action::NotePolicy { version, refused } => {
                if let Some(grant) = self.gateway.ingress.map(grants::first) {
                    self.gateway.live.tell(site, grant);
                }
                self.tell_seeds(&live).await?;
                let told = self.policy_told;
                let noted = move || policies::note_held(&state, site, version, refused.as_deref(), told);
                let newer = blocking(move || noted().map_err(|error| state_refusal(error.into()))).await?;
                newer.map(|(version, message)| {
                    self.policy_told = version;
                    message
                })
            }
            Action::Keep(minutes) => {
                let keep = move || policies::evidence::keep(&state, site, &minutes);
                let newest = blocking(move || keep().map_err(|error| state_refusal(error.into()))).await?;
                newest.map(|minute| FromGateway::EvidenceHeld { minute })
            }
            Action::Hear { site: figures, volumes } => {
                let heard = move || telemetry::take_in(&state, &tenant, site, figures, volumes);
                let failed = live.clone();
                blocking(move || heard().map_err(|error| ingest::store_refusal(&failed.tenant, error))).await?;
                None
            }
            Action::List { id, lineage, before } => {
                Some(blocking(move || back::list(&tenant, site, id, lineage, before)).await?)
            }
            Action::Measure { id, generation, base } => {
                Some(blocking(move || back::measure(&tenant, site, id, generation, base)).await?)
            }
            Action::NoteSeed(said) => {
                let noted = move || {
                    arrive::note(&state, &tenant, site, &said)?;
                    arrive::known(&state, site).map_err(|error| wait_refusal(&tenant, error))
                };
                Some(FromGateway::Seeds(blocking(noted).await?))
            }
            Action::NoteAppliance(report) => Some(FromGateway::Release(self.note_appliance(report).await?)),
            Action::Admit(_) | Action::Send(_) | Action::Close(_) => None, // not jobs
        };
        // An edge of an older version would end the session over a message that it does not know.
        let said = reply.filter(|message| self.version.allows_reply(message).is_ok());
        Ok(said.map(Event::Ready))
    }

    async fn admit(&mut self, hello: Hello) -> Result<Event, Refusal> {
        let (bearer, serial) = (self.peer.bearer, self.peer.serial);
        let state = self.gateway.state.clone();
        let checked = move || match state.catalogue.accepts(bearer.site, serial) {
            Ok(true) => {
                let tenant = state.tenant(bearer.tenant).map_err(state_refusal)?;
                let ruled = names_and_policy(&state.catalogue, bearer);
                Ok((tenant, ruled.map_err(|error| state_refusal(error.into()))?))
            }
            Ok(false) => Err(Refusal::Revoked),
            Err(error) => Err(state_refusal(error.into())),
        };
        let (tenant, (names, policy)) = blocking(checked).await?;
        let name = format!("{}/{}", names.0, names.1);
        let names = (names.0.as_str(), names.1.as_str());
        let line = self.gateway.live.down().dialled(bearer.site, names, policy.as_ref(), self.gateway.state.now());
        self.line.join(&line, Class::Control);
        let newcomer = Newcomer {
            site: bearer.site,
            tenant,
            serial,
            instance: hello.instance,
            version: self.version,
            software: hello.software.clone(),
            name: name.clone(),
            control: self.connection.clone(),
            line,
            commands: self.commands.clone(),
        };
        let span = tracing::Span::current();
        span.record("site", &name);
        let live = self.gateway.live.admit(newcomer).await?;
        span.record("session", live.label());
        // A revocation between the check and the admission found no session to end.
        let state = self.gateway.state.clone();
        self.live = Some(live.clone());
        if !blocking(move || state.catalogue.accepts(bearer.site, serial).map_err(|e| state_refusal(e.into()))).await? {
            return Err(Refusal::Revoked);
        }
        self.note_seen(&hello.software).await;
        tracing::info!(site = %bearer.site, software = %crate::text::printable(&hello.software), "session begins");
        Ok(Event::Admitted(Welcome {
            software: env!("CARGO_PKG_VERSION").into(),
            now: self.gateway.state.now(),
            session: live.number,
            addresses: self.gateway.announced.clone(),
        }))
    }

    fn sealed(&self, live: &LiveSession, id: dedupe::GenerationId, sealed: Result<Outcome, Refusal>) -> FromGateway {
        match sealed {
            Ok(Outcome::Waits) => {
                live.stop_receiving(id);
                tracing::info!(site = %live.site, generation = %id, "generation complete, waits for its seed");
                FromGateway::Waits { generation: id }
            }
            Ok(Outcome::Sealed(number)) => {
                live.stop_receiving(id);
                self.gateway.metrics.sealed.inc();
                self.gateway.work.notify_one(); // retention may have something to do
                tracing::info!(site = %live.site, generation = %id, number, "generation sealed");
                FromGateway::Sealed { generation: id, number }
            }
            Err(why) => {
                if !why.is_passing() {
                    live.stop_receiving(id);
                }
                tracing::warn!(site = %live.site, generation = %id, %why, "generation not sealed");
                FromGateway::Refuse { generation: id, why }
            }
        }
    }

    async fn renew(&self, request: Vec<u8>) -> Result<FromGateway, Refusal> {
        let bearer = self.peer.bearer;
        if self.gateway.renewals.check_key(&bearer.site.0).is_err() {
            return Err(Refusal::Protocol("certificates were asked for too often; six an hour are enough".into()));
        }
        let state = self.gateway.state.clone();
        blocking(move || {
            let authorities = state.authorities();
            let issued = authorities.sign_edge(&request, bearer, state.now(), state.certificate_validity);
            let issued = issued.map_err(|error| Refusal::Protocol(error.to_string()))?;
            let new = NewCertificate {
                certificate: issued.certificate.clone(),
                serial: issued.serial,
                valid_until: issued.valid_until,
            };
            state.catalogue.add_certificate(bearer.site, &new).map_err(|error| state_refusal(error.into()))?;
            tracing::info!(site = %bearer.site, serial = %new.serial, "certificate renewed");
            Ok(FromGateway::Certificate { certificate: issued.certificate, authorities: authorities.trusted() })
        })
        .await
    }

    /// Says what is known of the site's seeds, and the key of media.
    async fn tell_seeds(&self, live: &LiveSession) -> Result<(), Refusal> {
        let (state, site, tenant) = (self.gateway.state.clone(), live.site, live.tenant.clone());
        let known = move || arrive::known(&state, site).map_err(|error| wait_refusal(&tenant, error));
        self.gateway.live.tell(site, FromGateway::Seeds(blocking(known).await?));
        Ok(())
    }

    /// Notes which system the edge runs; gives what it is to run.
    async fn note_appliance(&self, report: Appliance) -> Result<Option<Order>, Refusal> {
        let (state, site) = (self.gateway.state.clone(), self.peer.bearer.site);
        let connected = self.gateway.live.connected_sites();
        let noted = move || {
            rollouts::note(&state, &connected, site, report).map_err(|error| {
                tracing::error!(%error, "what an appliance said of itself could not be noted");
                Refusal::Internal("what the appliance runs could not be noted".into())
            })
        };
        let (order, others) = blocking(noted).await?;
        rollouts::tell(&self.gateway.state, &self.gateway.live, others);
        Ok(order)
    }

    async fn note_seen(&self, software: &str) {
        let (state, site, software) = (self.gateway.state.clone(), self.peer.bearer.site, software.to_owned());
        let noted = tokio::task::spawn_blocking(move || state.catalogue.note_seen(site, &software, state.now()));
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%error, "the time of a session could not be noted");
        }
    }
}

/// The names of a site's tenant and of the site, and the policy in force.
fn names_and_policy(
    catalogue: &Catalogue,
    bearer: Bearer,
) -> Result<((String, String), Option<PolicyRow>), CatalogueError> {
    let tenant = catalogue.tenants()?.into_iter().find(|tenant| tenant.id == bearer.tenant);
    let tenant = tenant.map_or_else(|| bearer.tenant.to_string(), |tenant| tenant.name);
    let site = catalogue.site(bearer.site)?.map_or_else(|| bearer.site.to_string(), |site| site.name);
    Ok(((tenant, site), catalogue.policy(bearer.site)?))
}

fn look(live: &LiveSession, ask: &Ask) -> Result<Answer, Refusal> {
    let found = live.tenant.store.find_marks(&ask.marks);
    let found = found.map_err(|error| ingest::store_refusal(&live.tenant, error))?;
    let found = found.into_iter().map(|run| Found {
        at: run.at,
        count: run.count,
        generation: run.generation,
        first: run.first,
    });
    Ok(Answer { id: ask.id, found: found.collect() })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let span = tracing::Span::current();
    finish(tokio::task::spawn_blocking(move || span.in_scope(work)).await)
}
