use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

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
/// By which larder knows that it had an image pulled that needs a credential.
const PRIVATE: &str = "larder.dev/private";
/// By which larder knows when an image was last used.
const LAST_USE: &str = "larder.dev/last-use";

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

/// When an image was last of use, as far as was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LastUse {
    /// A container used it then.
    Used(SystemTime),
    /// None has used it since it was seen first, which was then.
    Seen(SystemTime),
}

/// What is remembered of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// What larder has to do with it.
    pub mark: Option<Mark>,
    /// When it was last of use, if anybody has looked.
    pub last_use: Option<LastUse>,
    /// Larder had it pulled, and the registry gives it to nobody without a credential.
    pub private: bool,
}

/// Remembers marks and last uses, and pins. With containerd they are labels on the image's record of its ID, which no pull takes off (those on a name are
/// dropped by the next pull of it) and which are gone when the image is. CRI-O has neither labels nor pins: marks live as long as this
/// does, and a restart forgets what was pulled, so that it stays.
#[derive(Clone, Debug)]
pub enum Marks {
    /// As labels of containerd.
    Labels(Channel),
    /// In memory.
    Memory(Arc<Mutex<HashMap<String, Remembered>>>),
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

    /// All that is remembered, by the IDs of images, of which `images` are there. Cancellation safe.
    ///
    /// # Errors
    /// The runtime does not tell within ten seconds.
    pub async fn all(&self, images: &[CriImage]) -> Result<HashMap<String, Remembered>, CriError> {
        let channel = match self {
            Marks::Labels(channel) => channel,
            Marks::Memory(marks) => {
                let mut marks = locked(marks);
                // What comes back after it was gone is another one.
                marks.retain(|id, _| images.iter().any(|image| image.id == *id));
                return Ok(marks.clone());
            }
        };
        let question =
            ListRecordsRequest { filters: [MARK, LAST_USE].map(|label| format!("labels.\"{label}\"")).into() };
        let list: ListRecordsResponse = within(QUESTION, ask(channel, LIST, in_kubernetes(question))).await?;
        let remembered = |record: &Record| Remembered {
            mark: record.labels.get(MARK).and_then(|text| text.parse().ok()),
            last_use: record.labels.get(LAST_USE).and_then(|text| text.parse().ok()),
            private: record.labels.contains_key(PRIVATE),
        };
        Ok(list.images.into_iter().map(|record| (record.name.clone(), remembered(&record))).collect())
    }

    /// Remembers when the image of an ID was last of use. Cancelled, it may be done or not.
    ///
    /// # Errors
    /// As [`set`](Marks::set).
    pub async fn use_at(&self, id: &str, last_use: LastUse) -> Result<(), CriError> {
        match self {
            Marks::Labels(channel) => {
                label(channel, id, HashMap::from([(LAST_USE.to_owned(), last_use.to_string())])).await
            }
            Marks::Memory(marks) => {
                locked(marks).entry(id.to_owned()).or_default().last_use = Some(last_use);
                Ok(())
            }
        }
    }

    /// Remembers no more when the image of an ID was last of use. Cancelled, it may be done or not.
    ///
    /// # Errors
    /// As [`set`](Marks::set).
    pub async fn forget_use(&self, id: &str) -> Result<(), CriError> {
        match self {
            Marks::Labels(channel) => label(channel, id, HashMap::from([(LAST_USE.to_owned(), String::new())])).await,
            Marks::Memory(marks) => {
                locked(marks).entry(id.to_owned()).or_default().last_use = None;
                Ok(())
            }
        }
    }

    /// Marks and pins the image of an ID, or takes all off. Cancelled, it may be done or not.
    ///
    /// # Errors
    /// The image is not there, or the runtime does not do it within ten seconds.
    pub async fn set(&self, id: &str, mark: Option<Mark>, private: bool, pinned: bool) -> Result<(), CriError> {
        let channel = match self {
            Marks::Labels(channel) => channel,
            Marks::Memory(marks) => {
                let mut marks = locked(marks);
                let remembered = marks.entry(id.to_owned()).or_default();
                (remembered.mark, remembered.private) = (mark, private);
                return Ok(());
            }
        };
        // A label that is empty is taken off.
        let labels = HashMap::from([
            (MARK.to_owned(), mark.map(|mark| mark.to_string()).unwrap_or_default()),
            (PRIVATE.to_owned(), if private { "true".to_owned() } else { String::new() }),
            (PINNED.to_owned(), if pinned { "pinned".to_owned() } else { String::new() }),
        ]);
        label(channel, id, labels).await
    }
}

/// Writes these labels of the record of an ID, and leaves the others.
async fn label(channel: &Channel, id: &str, labels: HashMap<String, String>) -> Result<(), CriError> {
    let paths = labels.keys().map(|label| format!("labels.{label}")).collect();
    let question = UpdateRecordRequest {
        image: Some(Record { name: id.to_owned(), labels, target: Some(Descriptor {}) }),
        update_mask: Some(FieldMask { paths }),
    };
    within(QUESTION, ask::<_, ()>(channel, UPDATE, in_kubernetes(question))).await
}

fn locked(marks: &Mutex<HashMap<String, Remembered>>) -> MutexGuard<'_, HashMap<String, Remembered>> {
    // Nothing that holds the lock leaves the map half changed.
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_kubernetes<T>(question: T) -> Request<T> {
    let mut request = Request::new(question);
    request.metadata_mut().insert(NAMESPACE, MetadataValue::from_static(KUBERNETES));
    request
}

impl LastUse {
    /// When that was.
    pub fn at(self) -> SystemTime {
        match self {
            LastUse::Used(at) | LastUse::Seen(at) => at,
        }
    }
}

/// With the seconds since 1970.
impl fmt::Display for LastUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            LastUse::Used(_) => "used",
            LastUse::Seen(_) => "seen",
        };
        let seconds = self.at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        write!(f, "{word}-{seconds}")
    }
}

impl FromStr for LastUse {
    type Err = ();

    fn from_str(text: &str) -> Result<LastUse, ()> {
        let (word, seconds) = text.split_once('-').ok_or(())?;
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().map_err(drop)?)).ok_or(())?;
        match word {
            "used" => Ok(LastUse::Used(at)),
            "seen" => Ok(LastUse::Seen(at)),
            _ => Err(()),
        }
    }
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
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for last_use in [LastUse::Used(at), LastUse::Seen(at)] {
            assert_eq!(last_use.to_string().parse(), Ok(last_use));
        }
        for text in ["", "used", "used-", "used--1", "gone-1", "used-99999999999999999999", "used-18446744073709551615"]
        {
            assert_eq!(text.parse::<LastUse>(), Err(()), "{text}");
        }
    }

    #[tokio::test]
    async fn marks_in_memory_are_those_that_were_set() {
        let marks = Marks::in_memory();
        assert!(!marks.pin());
        marks.set("a", Some(Mark::Keep), false, true).await.unwrap();
        marks.set("b", Some(Mark::Remove), true, true).await.unwrap();
        marks.set("a", None, false, false).await.unwrap();
        let image = |id: &str| CriImage { id: id.to_owned(), ..CriImage::default() };
        let all = marks.all(&[image("a"), image("b")]).await.unwrap();
        let marked = |id: &str| all.get(id).and_then(|remembered| remembered.mark);
        assert_eq!((marked("a"), marked("b")), (None, Some(Mark::Remove)));
        let used = LastUse::Used(SystemTime::UNIX_EPOCH);
        marks.use_at("b", used).await.unwrap();
        let all = marks.all(&[image("b")]).await.unwrap();
        assert_eq!(
            all,
            HashMap::from([(
                "b".to_owned(),
                Remembered { mark: Some(Mark::Remove), last_use: Some(used), private: true }
            )])
        );
        assert!(marks.all(&[image("c")]).await.unwrap().is_empty(), "it is gone");
        assert!(marks.all(&[image("b")]).await.unwrap().is_empty(), "and forgotten");
    }
}
