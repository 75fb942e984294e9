use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;

use super::clock::now;
use super::ground::{self, Arriving, Ground, Lost};
use super::meter::Meter;
use super::pulse::Pulse;
use super::wire::{Frame, Query};
use crate::members::{Member, NodeId};

/// How long the head of an answer may take, a connection that has to be made first included, and where this node is busy.
const ANSWER: [Duration; 2] = [Duration::from_millis(1200), Duration::from_secs(3)];

/// What a node says.
pub(super) type Answer = ground::Answer<Reading>;

/// Asks other nodes, and notices those that have gone silent.
pub(super) struct Client {
    ground: Arc<dyn Ground>,
    pulses: Mutex<HashMap<NodeId, Arc<Pulse>>>,
    meter: Arc<Meter>,
}

impl Client {
    pub fn new(ground: Arc<dyn Ground>, meter: Arc<Meter>) -> Client {
        Client { ground, pulses: Mutex::default(), meter }
    }

    /// Asks a node. The answer's head comes in time, or the node is lost.
    pub async fn ask(&self, member: &Member, query: &Query) -> Result<Answer, Lost> {
        let listening = Listening::new(self.pulse(&member.id));
        let limit = ANSWER[usize::from(self.meter.is_busy(now()))];
        let answer = tokio::time::timeout(limit, self.ground.ask(member, query)).await;
        let answer = answer.unwrap_or_else(|_| Err(Lost("it does not answer".to_owned())))?;
        listening.0.heard(now());
        Ok(match answer {
            ground::Answer::Frames(frames) => {
                Answer::Frames(Reading { frames, listening, meter: self.meter.clone(), beats: 0 })
            }
            ground::Answer::Holders(holders) => Answer::Holders(holders),
            ground::Answer::Nothing(status) => Answer::Nothing(status),
        })
    }

    fn pulse(&self, id: &NodeId) -> Arc<Pulse> {
        let mut pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pulse) = pulses.get(id) {
            return pulse.clone();
        }
        let pulse = Arc::new(Pulse::new(now()));
        pulses.insert(id.clone(), pulse.clone());
        pulse
    }

    /// Forgets nodes that are no members any more.
    pub fn keep(&self, is_member: impl Fn(&NodeId) -> bool) {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| is_member(id));
    }
}

struct Listening(Arc<Pulse>);

impl Listening {
    fn new(pulse: Arc<Pulse>) -> Listening {
        pulse.listen(now());
        Listening(pulse)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The frames of an answer, as they come.
pub(super) struct Reading {
    frames: Arriving,
    listening: Listening,
    meter: Arc<Meter>,
    /// Signs of life without bytes so far: the node waits for somebody else then, and is not slow itself.
    pub beats: u64,
}

impl Reading {
    /// The next frame; `None` at the end. Beats are counted and passed over. Cancellation-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, Lost> {
        loop {
            let frame = loop {
                let due = self.listening.0.due(self.meter.is_busy(now()));
                tokio::select! {
                    biased;
                    frame = self.frames.next() => break frame,
                    () = tokio::time::sleep_until(due.into()) => {
                        // Something may have come from it on another connection, or from others.
                        let now = now();
                        if self.listening.0.due(self.meter.is_busy(now)) <= now {
                            return Err(Lost("it has gone silent".to_owned()));
                        }
                    }
                }
            };
            self.listening.0.heard(now());
            match frame.transpose()? {
                Some(Frame::Beat) => self.beats += 1,
                frame => return Ok(frame),
            }
        }
    }
}
