use cache::{Ask, Authority, FailureKind, Rules, Source, SourceError, SourceKind};
use futures_util::StreamExt;

use super::Fetch;
use super::batch::{Batch, Next};
use crate::exchange::gathering::Trouble;
use crate::health::Reason;
use crate::placement::PIECE;

impl Fetch {
    /// Takes the piece from the sources beyond the nodes, in order.
    pub(super) async fn beyond(&mut self) -> Result<(), Trouble> {
        let name = self.errand.name.clone();
        let upstream = self.swarm.upstreams.find(&name.registry).map_err(|_| Trouble::Other("not cached here"))?;
        let authority = self.errand.own.clone().unwrap_or_else(|| common_right(&upstream.rules));
        let ask = Ask { name: name.clone(), authority };
        let mut trouble = Trouble::Other("no source beyond the nodes");
        // Whoever waits for this node waits for nobody else from here on.
        self.waits(0);
        self.flows(1);
        for source in upstream.sources.iter().filter(|source| source.kind() != SourceKind::Peer) {
            // Once more from where it stopped.
            for _ in 0..2 {
                let before = self.got;
                match self.take_from(&**source, &ask).await {
                    Ok(()) => return Ok(()),
                    Err(failed @ (Trouble::Store(_) | Trouble::Other(_))) => return Err(failed),
                    Err(failed) => trouble = failed,
                }
                if self.got == before {
                    break;
                }
            }
            if matches!(&trouble, Trouble::Source(error) if error.is_final(&**source)) {
                break;
            }
        }
        if let Trouble::Source(error) = &trouble
            && self.errand.own.is_none()
            && matches!(error.kind, FailureKind::Unauthorized | FailureKind::Denied | FailureKind::NotFound)
        {
            self.swarm.note_private(&name, &self.gathering.digest);
            return Err(Trouble::Private);
        }
        Err(trouble)
    }

    async fn take_from(&mut self, source: &dyn Source, ask: &Ask) -> Result<(), Trouble> {
        let from = self.piece * PIECE + self.got;
        let end = (self.piece + 1) * PIECE;
        let until = self.gathering.size().map_or(end, |size| size.min(end));
        let invalid = |reason: &str| Trouble::Source(SourceError::new(FailureKind::Invalid, source.label(), reason));
        let body = source.blob(ask, &self.gathering.digest, from, Some(until)).await.map_err(Trouble::Source)?;
        let size = body.size.ok_or_else(|| invalid("it does not tell the blob's length"))?;
        if body.offset != from {
            return Err(invalid("it does not give a part of a blob"));
        }
        match self.gathering.place(&*self.swarm.store, size, None).await.map_err(Trouble::Store)? {
            Ok(()) => {}
            Err(liar) => {
                if let Some(liar) = liar {
                    self.swarm.pass_over(&liar, Reason::Lying, &"it told another length of the blob");
                }
                self.swarm.forget(&self.gathering);
                return Err(Trouble::Other("the blob's length was wrong"));
            }
        }
        let length = self.gathering.length(self.piece).ok_or_else(|| invalid("the blob has no such piece"))?;
        let mut stream = body.stream;
        let kind = source.kind().as_str();
        let mut batch = Batch::default();
        let before = self.got;
        let ended = loop {
            if self.got + batch.length as u64 == length {
                break None;
            }
            match batch.or(stream.next()).await {
                Next::Due => self.take(&mut batch).await?,
                Next::Came(Some(Ok(mut bytes))) => {
                    // A source may send more than it was asked for.
                    bytes.truncate((length - self.got) as usize - batch.length);
                    batch.push(bytes);
                    if batch.is_full() || self.got == 0 {
                        self.take(&mut batch).await?;
                    }
                }
                Next::Came(Some(Err(error))) => break Some(error),
                Next::Came(None) => {
                    break Some(SourceError::new(FailureKind::Unavailable, source.label(), "the body ended too early"));
                }
            }
        };
        self.take(&mut batch).await?;
        self.swarm.metrics.received(kind, self.got - before);
        match ended {
            Some(error) => Err(Trouble::Source(error)),
            None => {
                self.swarm.metrics.came(kind);
                Ok(())
            }
        }
    }
}

/// With whose right a piece is fetched for others: what the origin gives to everybody, or the administrator.
fn common_right(rules: &Rules) -> Authority {
    if rules.for_all().is_some() { Authority::Own } else { Authority::Anonymous }
}
