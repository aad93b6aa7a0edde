//! Which line each of the gateway's connections draws on: the gateway's one socket serves all sites, and each has a rate of its own.
//!
//! ```text
//!   accept ──► Peer on a small line of its own: the handshake, a refusal
//!                │ Peer::join, once the edge has shown who it is
//!                ▼
//!              the site's line, which its control and its data connection share
//! ```
//!
//! A connection is told by its poller, not by its address. quinn makes a poller for each connection within [`accept`], on the same thread,
//! so the peer is handed to it there; and it asks the poller directly before each `try_send`, on the same thread, so the poller hands over on
//! whose account the datagram goes. So a connection keeps its account when its address changes, no address that somebody made up costs
//! memory, and no connection waits for another one's line: each waits for its own, in its own task.
//!
//! What the endpoint sends past all pollers (Retry, refusals, stateless resets) finds nothing handed over and goes on the strangers' account.

use crate::bucket::Class;
use crate::shaper::{Shaper, now};
use crate::transport::newcomer_transport;
use crate::units::{BitsPerSec, Rate};
use quinn::{Connecting, ConnectionError, Incoming, ServerConfig};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One of the gateway's connections, and the line that it draws on. Clones are handles on the same.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Mutex<Turn>>);

/// On whose account the next datagram goes.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) line: Shaper,
    pub(crate) class: Class,
}

/// What a connection may use before it is known whose it is. A handshake is some 4 kB down: an eighth of a second.
const NEWCOMER: BitsPerSec = BitsPerSec::kbit(256);
/// What all answers to strangers may use together: 2,000 Retries a second. So this is all that a flood with made-up addresses can have sent
/// to others by us.
pub(crate) const STRANGERS: BitsPerSec = BitsPerSec::kbit(2_000);

thread_local! {
    /// For the poller that is made next on this thread.
    static NEWCOMING: RefCell<Option<Peer>> = const { RefCell::new(None) };
    /// For the datagram that is sent next on this thread.
    static HANDED_OVER: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// Accepts a connection on one of the gateway's sockets, with the transport parameters of [`gateway_transport`](crate::gateway_transport) but
/// little room. It goes on a small line of its own until [`Peer::join`].
///
/// Errors are quinn's: what came is no good beginning of a connection.
pub fn accept(incoming: Incoming, server: &ServerConfig) -> Result<(Connecting, Peer), ConnectionError> {
    let peer = Peer::new(Shaper::new(Rate::Limited(NEWCOMER)), Class::Control);
    let mut server = server.clone();
    server.transport_config(Arc::new(newcomer_transport(&peer)));
    NEWCOMING.set(Some(peer.clone()));
    let accepted = incoming.accept_with(Arc::new(server));
    NEWCOMING.take(); // a connection that is refused makes no poller
    Ok((accepted?, peer))
}

impl Peer {
    pub(crate) fn new(line: Shaper, class: Class) -> Peer {
        Peer(Arc::new(Mutex::new(Turn { line, class })))
    }

    /// From now on this connection draws on `line`, which others may share, as `class`. What it sent before is paid from there, so nobody
    /// gets anything by dialling again; a sender that waits is woken.
    pub fn join(&self, line: &Shaper, class: Class) {
        self.join_at(now(), line, class);
    }

    fn join_at(&self, now: Instant, line: &Shaper, class: Class) {
        let before = std::mem::replace(&mut *self.lock(), Turn { line: line.clone(), class });
        if !before.line.is(line) {
            line.inherit(now, &before.line);
        }
    }

    /// What it draws on at the moment.
    pub(crate) fn turn(&self) -> Turn {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        // Whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The peer of the connection whose poller is being made.
pub(crate) fn newcomer() -> Option<Peer> {
    NEWCOMING.take()
}

/// The poller of a connection says that it may send: its datagram is the next on this thread.
pub(crate) fn hand_over(turn: Turn) {
    HANDED_OVER.set(Some(turn));
}

/// On whose account the datagram goes that is being sent; None: no poller was asked.
pub(crate) fn take_over() -> Option<Turn> {
    HANDED_OVER.take()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::tests::{Trace, limited};
    use proptest::prelude::*;
    use std::time::Duration;

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Send(usize, u64),
        /// A connection ends and another one begins, of which it is not known whose it is.
        Redial(usize),
        /// A connection joins a site.
        Join(usize, usize, Class),
        Change(usize, Rate),
    }

    const CONNECTIONS: usize = 5;
    const SITES: usize = 2;

    fn step() -> impl Strategy<Value = Step> {
        let class = prop_oneof![Just(Class::Data), Just(Class::Control)];
        let rate = prop_oneof![
            1 => Just(Rate::Closed),
            1 => Just(Rate::Unlimited),
            6 => (8u64..20_000).prop_map(limited),
        ];
        prop_oneof![
            4 => (0u64..50_000_000).prop_map(Step::Wait),
            12 => (0..CONNECTIONS, 29u64..1_500).prop_map(|(of, bytes)| Step::Send(of, bytes)),
            1 => (0..CONNECTIONS).prop_map(Step::Redial),
            2 => (0..CONNECTIONS, 0..SITES, class).prop_map(|(of, site, class)| Step::Join(of, site, class)),
            1 => (0..SITES, rate).prop_map(|(site, rate)| Step::Change(site, rate)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn every_interval_of_every_site_conforms_whatever_its_connections_do(
            steps in prop::collection::vec(step(), 1..200),
            first in 8u64..20_000,
        ) {
            let start = now();
            let sites = [(); SITES].map(|()| Shaper::new(limited(first)));
            let mut traces = [(); SITES].map(|()| Trace { sent: Vec::new(), rates: vec![(0, limited(first))] });
            let newcomer = || Peer::new(Shaper::new(Rate::Limited(NEWCOMER)), Class::Control);
            let mut peers = [(); CONNECTIONS].map(|()| (newcomer(), None::<usize>));
            let (mut at, mut unknown, mut owed) = (0, [0; CONNECTIONS], [0; SITES]);
            for step in steps {
                let now = start + Duration::from_nanos(at);
                match step {
                    Step::Wait(ns) => at += ns,
                    Step::Send(of, bytes) => {
                        let (peer, site) = &peers[of];
                        let turn = peer.turn();
                        if turn.line.take_at(now, turn.class, bytes) {
                            match site {
                                Some(site) => traces[*site].sent.push((at, bytes)),
                                None => unknown[of] += bytes,
                            }
                        }
                    }
                    Step::Redial(of) => (peers[of], unknown[of]) = ((newcomer(), None), 0),
                    // Whose a connection is does not change.
                    Step::Join(of, site, class) if peers[of].1.is_none_or(|known| known == site) => {
                        peers[of].0.join_at(now, &sites[site], class);
                        peers[of].1 = Some(site);
                        owed[site] += std::mem::take(&mut unknown[of]);
                    }
                    Step::Join(..) => {}
                    Step::Change(site, rate) => {
                        sites[site].set_rate_at(now, rate);
                        traces[site].rates.push((at, rate));
                    }
                }
            }
            for ((trace, site), owed) in traces.iter().zip(&sites).zip(owed) {
                trace.check()?;
                prop_assert_eq!(site.spent(), owed + trace.sent.iter().map(|(_, bytes)| bytes).sum::<u64>());
            }
        }
    }
}
