use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::messages::{Descriptor, FieldMask, ListRecordsRequest, ListRecordsResponse, Record, UpdateRecordRequest};
use super::{CriError, CriImage, QUESTION, within};
use crate::grpc::{ask, endpoint};

const LIST: &str = "/containerd.services.images.v1.Images/List";
const UPDATE: &str = "/containerd.services.images.v1.Images/Update";
const NAMESPACE: &str = "containerd-namespace";
/// Where the images of Kubernetes are.
const KUBERNETES: &str = "k8s.io";

/// By which CRI tells kubelet that an image is pinned.
const PINNED: &str = "io.cri-containerd.pinned";
/// By which larder knows an image that it pinned or pulled.
const MARK: &str = "larder.dev/prefetch";

/// What larder has to do with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// It was there before larder wanted it.
    Found,
    /// Larder pulled it, and it stays when nothing wants it any more.
    Keep,
    /// Larder pulled it, and removes it when nothing wants or uses it any more.
    Remove,
}

/// Remembers marks, and pins. With containerd they are labels on the image's record of its ID, which no pull takes off (those on a name are
/// dropped by the next pull of it) and which are gone when the image is. CRI-O has neither labels nor pins: marks live as long as this
/// does, and a restart forgets what was pulled, so that it stays.
#[derive(Clone, Debug)]
pub enum Marks {
    /// As labels of containerd.
    Labels(Channel),
    /// In memory.
    Memory(Arc<Mutex<HashMap<String, Mark>>>),
}

impl Marks {
    /// Those of the containerd at a socket.
    ///
    /// # Errors
    /// The path is none that can be asked.
    pub fn of_containerd(socket: &Path) -> Result<Marks, CriError> {
        let endpoint = endpoint(socket).ok_or_else(|| CriError::Path(socket.to_owned()))?;
        Ok(Marks::Labels(endpoint.connect_lazy()))
    }

    /// Those of a runtime that remembers none.
    pub fn in_memory() -> Marks {
        Marks::Memory(Arc::default())
    }

    /// Whether images can be pinned.
    pub fn pin(&self) -> bool {
        matches!(self, Marks::Labels(_))
    }

    /// All marks, by the IDs of images, of which `images` are there. Cancellation safe.
    ///
    /// # Errors
    /// The runtime does not tell within ten seconds.
    pub async fn all(&self, images: &[CriImage]) -> Result<HashMap<String, Mark>, CriError> {
        let channel = match self {
            Marks::Labels(channel) => channel,
            Marks::Memory(marks) => {
                let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
                // What comes back after it was gone is another one.
                marks.retain(|id, _| images.iter().any(|image| image.id == *id));
                return Ok(marks.clone());
            }
        };
        let question = ListRecordsRequest { filters: vec![format!("labels.\"{MARK}\"")] };
        let list: ListRecordsResponse = within(QUESTION, ask(channel, LIST, in_kubernetes(question))).await?;
        let marks = list.images.into_iter().filter_map(|record| {
            let mark = record.labels.get(MARK)?.parse().ok()?;
            Some((record.name, mark))
        });
        Ok(marks.collect())
    }

    /// Marks and pins the image of an ID, or takes both off. Cancelled, it may be done or not.
    ///
    /// # Errors
    /// The image is not there, or the runtime does not do it within ten seconds.
    pub async fn set(&self, id: &str, mark: Option<Mark>, pinned: bool) -> Result<(), CriError> {
        let channel = match self {
            Marks::Labels(channel) => channel,
            Marks::Memory(marks) => {
                let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
                match mark {
                    Some(mark) => marks.insert(id.to_owned(), mark),
                    None => marks.remove(id),
                };
                return Ok(());
            }
        };
        let question = UpdateRecordRequest {
            image: Some(Record {
                name: id.to_owned(),
                // A label that is empty is taken off.
                labels: HashMap::from([
                    (MARK.to_owned(), mark.map(|mark| mark.to_string()).unwrap_or_default()),
                    (PINNED.to_owned(), if pinned { "pinned".to_owned() } else { String::new() }),
                ]),
                target: Some(Descriptor {}),
            }),
            update_mask: Some(FieldMask { paths: vec![format!("labels.{MARK}"), format!("labels.{PINNED}")] }),
        };
        within(QUESTION, ask::<_, ()>(channel, UPDATE, in_kubernetes(question))).await
    }
}

fn in_kubernetes<T>(question: T) -> Request<T> {
    let mut request = Request::new(question);
    request.metadata_mut().insert(NAMESPACE, MetadataValue::from_static(KUBERNETES));
    request
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mark::Found => "found",
            Mark::Keep => "keep",
            Mark::Remove => "remove",
        })
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Mark, ()> {
        [Mark::Found, Mark::Keep, Mark::Remove].into_iter().find(|mark| mark.to_string() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_is_written() {
        for mark in [Mark::Found, Mark::Keep, Mark::Remove] {
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        assert_eq!("pinned".parse::<Mark>(), Err(()));
    }

    #[tokio::test]
    async fn marks_in_memory_are_those_that_were_set() {
        let marks = Marks::in_memory();
        assert!(!marks.pin());
        marks.set("a", Some(Mark::Keep), true).await.unwrap();
        marks.set("b", Some(Mark::Remove), true).await.unwrap();
        marks.set("a", None, false).await.unwrap();
        let image = |id: &str| CriImage { id: id.to_owned(), ..CriImage::default() };
        let all = marks.all(&[image("a"), image("b")]).await.unwrap();
        assert_eq!(all, HashMap::from([("b".to_owned(), Mark::Remove)]));
        assert!(marks.all(&[image("a")]).await.unwrap().is_empty(), "it is gone");
        assert!(marks.all(&[image("b")]).await.unwrap().is_empty(), "and forgotten");
    }
}
