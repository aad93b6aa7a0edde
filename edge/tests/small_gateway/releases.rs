//! Orders about releases and the parts of one.

use super::{SmallGateway, Trick};
use std::sync::Mutex;
use wire::message::{DataReply, FromGateway, Refusal};
use wire::release::{Appliance, Order, PartFollows, PartWanted, ReleaseId};
use wire::stream::{self, CloseCode, FrameReader, FrameWriter, StreamError};

/// What this gateway gives: parts coded against one base, and against nothing.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) order: Option<Order>,
    pub(crate) release: Option<ReleaseId>,
    pub(crate) base: Option<ReleaseId>,
    pub(crate) parts: Vec<Vec<u8>>,
    pub(crate) whole: Vec<Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Releases {
    given: Mutex<Given>,
    heard: Mutex<Vec<Appliance>>,
    /// Base, number and offset of every part that was given.
    asked: Mutex<Vec<(Option<ReleaseId>, u32, u64)>>,
}

impl SmallGateway {
    /// From now on this is what the next [`Appliance`] is answered with. Sessions that are open are cut, so that it is said at once.
    pub(crate) fn give(&self, given: Given) {
        *self.0.releases.given.lock().unwrap() = given;
        self.cut();
    }

    /// Waits until an edge has told this of its system.
    pub(crate) async fn wait_for_appliance(&self, wanted: impl Fn(&Appliance) -> bool) -> Appliance {
        self.wait(|inner| inner.releases.heard.lock().unwrap().iter().any(&wanted)).await;
        self.0.releases.heard.lock().unwrap().iter().find(|heard| wanted(heard)).cloned().unwrap()
    }

    pub(crate) fn appliances(&self) -> Vec<Appliance> {
        self.0.releases.heard.lock().unwrap().clone()
    }

    pub(crate) fn parts_asked(&self) -> Vec<(Option<ReleaseId>, u32, u64)> {
        self.0.releases.asked.lock().unwrap().clone()
    }

    pub(super) fn note_appliance(&self, appliance: Appliance) -> FromGateway {
        self.0.releases.heard.lock().unwrap().push(appliance);
        self.0.changed.notify_waiters();
        FromGateway::Release(self.0.releases.given.lock().unwrap().order.clone())
    }

    pub(super) async fn part(
        &self,
        connection: quinn::Connection,
        wanted: PartWanted,
        mut writer: FrameWriter,
        _reader: FrameReader,
    ) -> Result<(), StreamError> {
        let parts = {
            let given = self.0.releases.given.lock().unwrap();
            assert_eq!(Some(wanted.release), given.release);
            match wanted.base {
                None => Some(given.whole.clone()),
                Some(base) if Some(base) == given.base => Some(given.parts.clone()),
                Some(_) => None,
            }
        };
        let Some(parts) = parts else {
            let unknown = Refusal::MissingBase(dedupe::GenerationId([0xff; 16]));
            writer.send(&DataReply::Refused(unknown)).await?;
            writer.finish_and_wait().await;
            return Ok(());
        };
        let part = &parts[wanted.part as usize];
        let hash = *blake3::hash(part).as_bytes();
        let offset = wanted.have.filter(|(had, _)| *had == hash).map_or(0, |(_, durable)| durable);
        self.0.releases.asked.lock().unwrap().push((wanted.base, wanted.part, offset));
        let follows = PartFollows {
            parts: parts.len() as u32,
            total: parts.iter().map(|part| part.len() as u64).sum(),
            len: part.len() as u64,
            hash,
            offset,
        };
        writer.send(&DataReply::Part(follows)).await?;
        let cut = *self.0.trick.lock().unwrap() == Trick::CutInPartOnce && wanted.part == 0;
        let end = if cut { part.len() / 2 } else { part.len() };
        writer.raw(&part[offset as usize..end]).await?;
        if cut {
            // Until it is there: what the edge keeps is what arrived.
            writer.finish_and_wait().await;
            self.trick(Trick::None);
            stream::close(&connection, CloseCode::Stopping, "");
            return Ok(());
        }
        writer.finish_and_wait().await;
        Ok(())
    }
}
