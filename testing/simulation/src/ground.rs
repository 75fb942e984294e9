use std::sync::{Arc, OnceLock, Weak};

use peers::{Answer, Arriving, Disk, FRAME, Giving, Ground, Lost, Member, NodeId, Part, Query, Swarm};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::network::{Cargo, Condition, Host, Key, Network, mix};
use crate::stream::{self, Item, Stream, nothing};

/// The most bytes of one answer on their way between two nodes.
const WINDOW: u32 = 1 << 20;
/// The length of a question, or of the head of an answer.
const MESSAGE: u32 = 500;

/// Where nodes answer.
#[derive(Default)]
pub(crate) struct Site {
    pub swarm: OnceLock<Weak<Swarm>>,
    /// Ends all that the node does for others.
    pub end: CancellationToken,
}

/// The ground of one node: what it asks goes over the network, and bytes are nowhere.
pub(crate) struct Counted {
    pub me: Host,
    pub id: NodeId,
    pub network: Arc<Network>,
    pub sites: Arc<Vec<Site>>,
    pub host_of: fn(&Member) -> Host,
}

type Reply = oneshot::Sender<Result<Answer<Arriving>, Lost>>;

#[async_trait::async_trait]
impl Ground for Counted {
    async fn ask(&self, node: &Member, query: &Query) -> Result<Answer<Arriving>, Lost> {
        let (to, me) = ((self.host_of)(node), self.me);
        let key = key(me, to, query);
        let (reply, answer) = oneshot::channel();
        let reply = Arc::new(std::sync::Mutex::new(Some(reply)));
        let failed = reply.clone();
        let (network, sites, id, query) = (self.network.clone(), self.sites.clone(), self.id.clone(), query.clone());
        let arrived = move || {
            let Some(reply) = take(&reply) else { return };
            let end = sites[to as usize].end.clone();
            tokio::spawn(async move {
                serve(Serving { network, sites, asker: me, me: to, key, end }, id, query, reply).await
            });
        };
        let lost = move |lost| {
            if let Some(reply) = take(&failed) {
                let _ = reply.send(Err(lost));
            }
        };
        let question = Cargo::Question { arrived: Box::new(arrived), lost: Box::new(lost) };
        self.network.send(me, to, Key::single(key), MESSAGE, false, question);
        match answer.await {
            Ok(answer) => answer,
            // Lost without a sign.
            Err(_) => std::future::pending().await,
        }
    }

    fn disk(&self) -> Disk {
        Disk::Counted(nothing(FRAME))
    }
}

fn take(reply: &std::sync::Mutex<Option<Reply>>) -> Option<Reply> {
    reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

fn key(from: Host, to: Host, query: &Query) -> u64 {
    let Query { piece, from: at, hops, below, insist, .. } = query;
    let small = piece << 24 | u64::from(*hops) << 16 | u64::from(*below) << 8 | u64::from(*insist);
    mix(mix(u64::from(from) << 32 | u64::from(to)) ^ mix(small) ^ at)
}

/// A question that has arrived.
struct Serving {
    network: Arc<Network>,
    sites: Arc<Vec<Site>>,
    asker: Host,
    me: Host,
    key: u64,
    end: CancellationToken,
}

/// Answers one question.
async fn serve(serving: Serving, asker: NodeId, query: Query, reply: Reply) {
    let Some(swarm) = serving.sites[serving.me as usize].swarm.get().and_then(Weak::upgrade) else { return };
    let answer = tokio::select! {
        biased;
        () = serving.end.cancelled() => return serving.head(reply, Err(Lost("connection reset".to_owned())), false),
        answer = swarm.answer(asker, query) => answer,
    };
    drop(swarm);
    let answer = match answer {
        Answer::Frames(giving) => return serving.give(giving, reply).await,
        Answer::Holders(holders) => Answer::Holders(holders),
        Answer::Nothing(status) => Answer::Nothing(status),
    };
    serving.head(reply, Ok(answer), true);
}

impl Serving {
    /// Sends the head of the answer; with `whole`, that is all of it.
    fn head(&self, reply: Reply, answer: Result<Answer<Arriving>, Lost>, whole: bool) {
        let (network, me, asker) = (self.network.clone(), self.me, self.asker);
        let run = move || {
            if reply.send(answer).is_ok() && whole {
                network.release(asker, me);
            }
        };
        self.network.send(me, asker, Key::single(mix(self.key)), MESSAGE, false, Cargo::Run(Box::new(run)));
    }

    async fn give(&self, mut giving: Giving, reply: Reply) {
        let key = mix(self.key ^ self.network.now());
        let stream = Stream::new(&self.network, self.me, self.asker, key, WINDOW);
        self.head(reply, Ok(Answer::Frames(Box::pin(stream::Arriving::new(stream.clone())))), false);
        tokio::select! {
            biased;
            () = self.end.cancelled() => {
                if self.network.condition(self.me) == Condition::Ended {
                    stream.send(Item::Lost("connection reset".to_owned()));
                }
            }
            () = pump(&stream, &mut giving) => {}
        }
    }
}

/// Sends what is given, as there is room.
async fn pump(stream: &Arc<Stream>, giving: &mut Giving) {
    loop {
        let part = tokio::select! {
            biased;
            () = stream.closed() => return,
            part = giving.next() => part,
        };
        match part {
            None => return stream.send(Item::End),
            Some(Part::Frame(frame)) => stream.send(Item::Frame(frame)),
            Some(Part::Bytes(stretch)) => {
                if !stream.send_bytes(stretch.length() as u64).await {
                    return;
                }
            }
        }
    }
}
