use std::sync::Arc;

use async_trait::async_trait;
use cache::{
    Ask, BlobBody, BlobHead, Document, DocumentQuery, FailureKind, ManifestBody, ManifestHead, NoUpstream, Source,
    SourceError, Upstream, Upstreams,
};
use futures_util::StreamExt;
use oci::{Digest, Reference, Registry};
use peers::Frame;
use tokio::sync::oneshot;

use crate::network::{Cargo, Host, Key, Network, ORIGIN, mix};
use crate::stream::{Arriving, Item, Stream};

/// The most bytes of one answer on their way.
const WINDOW: u32 = 4 << 20;
/// The length of a question, or of the head of an answer.
const MESSAGE: u32 = 1000;

/// The origin, as one node has it.
pub(crate) struct Origin {
    pub network: Arc<Network>,
    pub me: Host,
    /// The length of its blob.
    pub size: u64,
}

fn missing<T>() -> Result<T, SourceError> {
    Err(SourceError::new(FailureKind::NotFound, "origin", "there are blobs only"))
}

#[async_trait]
impl Source for Origin {
    fn label(&self) -> &str {
        "origin"
    }

    async fn head_manifest(&self, _: &Ask, _: &Reference) -> Result<ManifestHead, SourceError> {
        missing()
    }

    async fn manifest(&self, _: &Ask, _: &Reference) -> Result<ManifestBody, SourceError> {
        missing()
    }

    async fn document(&self, _: &Ask, _: &DocumentQuery) -> Result<Document, SourceError> {
        missing()
    }

    async fn head_blob(&self, _: &Ask, _: &Digest) -> Result<BlobHead, SourceError> {
        Ok(BlobHead { size: Some(self.size) })
    }

    async fn blob(&self, _: &Ask, _: &Digest, from: u64, until: Option<u64>) -> Result<BlobBody, SourceError> {
        let (network, me) = (self.network.clone(), self.me);
        let until = until.unwrap_or(self.size).min(self.size);
        let key = mix(mix(u64::from(me)) ^ mix(from) ^ until);
        let (reply, answer) = oneshot::channel();
        let arrived = move || {
            let key = mix(key ^ network.now());
            let stream = Stream::new(&network, ORIGIN, me, key, WINDOW);
            let arriving = Arriving::new(stream.clone());
            let head = Cargo::Run(Box::new(move || drop(reply.send(arriving))));
            network.send(ORIGIN, me, Key::single(mix(key)), MESSAGE, false, head);
            tokio::spawn(async move {
                if stream.send_bytes(until.saturating_sub(from)).await {
                    stream.send(Item::End);
                }
            });
        };
        let question = Cargo::Question { arrived: Box::new(arrived), lost: Box::new(|_| {}) };
        self.network.send(me, ORIGIN, Key::single(key), MESSAGE, false, question);
        let lost = |why: String| SourceError::new(FailureKind::Unavailable, "origin", why);
        let arriving = answer.await.map_err(|_| lost("no answer".to_owned()))?;
        let stream = arriving.filter_map(move |frame| async move {
            match frame {
                Ok(Frame::Bytes(bytes)) => Some(Ok(bytes)),
                Ok(_) => None,
                Err(why) => Some(Err(lost(why.0))),
            }
        });
        Ok(BlobBody { size: Some(self.size), offset: from, stream: Box::pin(stream), placed: None })
    }
}

/// The origin as the only source beyond the nodes.
pub(crate) struct Only(Arc<Upstream>);

impl Only {
    pub fn new(registry: Registry, origin: Arc<Origin>) -> Only {
        Only(Arc::new(Upstream { registry, sources: vec![origin], rules: cache::Rules::default() }))
    }
}

impl Upstreams for Only {
    fn find(&self, _: &Registry) -> Result<Arc<Upstream>, NoUpstream> {
        Ok(self.0.clone())
    }
}
