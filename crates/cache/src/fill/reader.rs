use std::ops::Range;

use super::pass::Pass;
use super::progress::{Filling, State};
use super::task::ended;
use crate::reply::{Chunk, Error};
use crate::source::FailureKind;

/// Reads a range of a fill as its bytes come in.
pub struct FillReader {
    filling: Filling,
    start: u64,
    position: u64,
    end: u64,
    /// The way around a disk that takes no more.
    pass: Option<Box<Pass>>,
}

enum Step {
    Give(Chunk),
    End,
    Fail(Error),
    Pass(Box<Pass>),
}

impl FillReader {
    pub(super) fn new(filling: Filling, range: Range<u64>) -> FillReader {
        FillReader { filling, start: range.start, position: range.start, end: range.end, pass: None }
    }

    /// The next bytes, at most `most` of them (those from memory may be more); `None` at the end of the range. An error
    /// means that the rest will not come: what has been given is right, unless the whole is given up as wrong.
    /// Cancellation-safe.
    pub async fn next(&mut self, most: u64) -> Result<Option<Chunk>, Error> {
        loop {
            if self.position >= self.end {
                return Ok(None);
            }
            if let Some(pass) = &mut self.pass {
                let chunk = pass.next(self.position, self.end).await?;
                self.position += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
                return Ok(chunk.map(Chunk::Memory));
            }
            let position = self.position;
            let step = {
                // A fill that is over leaves its last state behind, which is looked at first.
                let Ok(progress) = self.filling.progress.wait_for(|progress| progress.step_ready(position)).await
                else {
                    return Err(ended());
                };
                let limit = progress.released.min(self.end);
                let given = position > self.start;
                let wrong = given && progress.right_until.is_some_and(|right| position > right);
                match &progress.state {
                    _ if wrong => Step::Fail(Error::new(
                        FailureKind::Invalid,
                        "a source sent wrong bytes before another one sent the right ones",
                    )),
                    _ if position < limit => match &progress.file {
                        Some(file) => Step::Give(Chunk::File {
                            file: file.clone(),
                            range: position..limit.min(position.saturating_add(most)),
                        }),
                        None => Step::Fail(ended()),
                    },
                    State::Whole(_) => Step::End,
                    State::Failed(error) => Step::Fail(error.clone()),
                    State::Passing(handoff) => {
                        match Pass::new(&self.filling.shared, handoff, progress.size, progress.file.as_deref()) {
                            Ok(pass) => Step::Pass(Box::new(pass)),
                            Err(_) => Step::Fail(Error::new(
                                FailureKind::Unavailable,
                                "the disk failed in the middle of the blob",
                            )),
                        }
                    }
                    State::Starting | State::Running => continue,
                }
            };
            match step {
                Step::Give(chunk) => {
                    self.position += chunk.size();
                    return Ok(Some(chunk));
                }
                Step::End => return Ok(None),
                Step::Fail(error) => return Err(error),
                Step::Pass(pass) => self.pass = Some(pass),
            }
        }
    }
}

impl super::progress::Progress {
    /// Whether a reader at `position` can do something.
    fn step_ready(&self, position: u64) -> bool {
        position < self.released || !matches!(self.state, State::Starting | State::Running)
    }
}
