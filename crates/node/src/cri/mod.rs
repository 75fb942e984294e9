//! A container runtime's own interface: CRI v1's image service, and who uses images. `marks` are what is remembered of an image beside it.

mod marks;
mod messages;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::Pass;
use tonic::Code;
use tonic::transport::Channel;

use crate::grpc::{call, endpoint};
use messages::{
    AuthConfig, ContainerStatusResponse, ImageFsInfoResponse, ImageSpec, ImageStatusResponse, ListContainersResponse,
    ListImagesResponse, OneContainer, OneImage, PullImageRequest, PullImageResponse,
};

pub use marks::{LastUse, Mark, Marks, Remembered};

const LIST_IMAGES: &str = "/runtime.v1.ImageService/ListImages";
const IMAGE_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";
const PULL_IMAGE: &str = "/runtime.v1.ImageService/PullImage";
const REMOVE_IMAGE: &str = "/runtime.v1.ImageService/RemoveImage";
const IMAGE_FS_INFO: &str = "/runtime.v1.ImageService/ImageFsInfo";
const LIST_CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
const CONTAINER_STATUS: &str = "/runtime.v1.RuntimeService/ContainerStatus";

/// How long a question may take that a runtime answers from memory.
const QUESTION: Duration = Duration::from_secs(10);

/// How long a removal may take: the last name of an image goes only when what it had on the disk has gone.
const REMOVAL: Duration = Duration::from_secs(120);

/// How long a pull may take. Nothing tells how far one is, so this must be enough for 100 GB at 5 MB/s. A pull that stands still is no matter of
/// it: the runtimes end one themselves, containerd after five minutes.
const PULL: Duration = Duration::from_secs(6 * 3600);

/// How often a runtime is asked whether it still lives while an answer is awaited, in which a pull may take hours. gRPC's servers take more than
/// one such question in five minutes for abuse, and hang up.
const ALIVE_EVERY: Duration = Duration::from_secs(310);
/// How long it may take to say so.
const ALIVE: Duration = Duration::from_secs(60);

/// A runtime by its socket. It need not be there yet, and may go and come back: each question finds its own way.
#[derive(Clone, Debug)]
pub struct Cri {
    channel: Channel,
    /// The images that containers have as volumes, by their IDs: of a container that never changes.
    volumes: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

/// An image that a runtime has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriImage {
    /// The digest of its configuration, as the runtime writes it.
    pub id: String,
    /// Its names with tags, such as `docker.io/library/nginx:1.27`.
    pub tags: Vec<String>,
    /// Its names with digests, such as `docker.io/library/nginx@sha256:…`.
    pub digests: Vec<String>,
    /// Its size as the runtime counts it, in bytes.
    pub bytes: u64,
    /// Kubelet may not remove it.
    pub pinned: bool,
}

/// Why a runtime did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CriError {
    /// Its socket's path is not one that can be asked.
    #[error("{} is no path of a socket", .0.display())]
    Path(PathBuf),
    /// It is not there, or does not answer in time.
    #[error("the container runtime does not answer: {0}")]
    Silent(String),
    /// It could not. What it says may be of any length.
    #[error("{message}")]
    Failed {
        /// Its word for programs.
        code: Code,
        /// Its words for people.
        message: String,
    },
}

impl From<tonic::Status> for CriError {
    fn from(status: tonic::Status) -> CriError {
        // What containerd's own clients of registries do not reach is Unknown, never Unavailable: that is said of the socket.
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                CriError::Silent(status.message().to_owned())
            }
            code => CriError::Failed { code, message: status.message().to_owned() },
        }
    }
}

impl Cri {
    /// The runtime at a socket, as this process sees it.
    ///
    /// # Errors
    /// The path is none that can be asked.
    pub fn at(socket: &Path) -> Result<Cri, CriError> {
        let endpoint = endpoint(socket).ok_or_else(|| CriError::Path(socket.to_owned()))?;
        let endpoint = endpoint.http2_keep_alive_interval(ALIVE_EVERY).keep_alive_timeout(ALIVE);
        Ok(Cri { channel: endpoint.connect_lazy(), volumes: Arc::default() })
    }

    /// What it has. Cancellation safe.
    ///
    /// # Errors
    /// It does not say within ten seconds.
    pub async fn images(&self) -> Result<Vec<CriImage>, CriError> {
        let list: ListImagesResponse = within(QUESTION, call(&self.channel, LIST_IMAGES, ())).await?;
        Ok(list.images.into_iter().map(CriImage::from).collect())
    }

    /// The image of a name, if it has it. Cancellation safe.
    ///
    /// # Errors
    /// It does not say within ten seconds.
    pub async fn image(&self, name: &str) -> Result<Option<CriImage>, CriError> {
        let status: ImageStatusResponse = within(QUESTION, call(&self.channel, IMAGE_STATUS, one(name))).await?;
        Ok(status.image.map(CriImage::from))
    }

    /// Pulls an image with no credential but, if it is given, a pass for the mirror of this URL, which containerd shows nobody else; gives the
    /// image's ID. Cancelled, the runtime ends the pull and keeps what came for the next.
    ///
    /// # Errors
    /// It cannot, or takes longer than six hours.
    pub async fn pull(&self, image: &oci::Image, pass: Option<(&Pass, &str)>) -> Result<String, CriError> {
        let auth = pass.map(|(pass, mirror_url)| AuthConfig {
            username: pass.username().to_owned(),
            password: pass.password().to_owned(),
            server_address: mirror_url.to_owned(),
        });
        let question = PullImageRequest { image: one(&image.to_string()).image, auth };
        let pull = call::<_, PullImageResponse>(&self.channel, PULL_IMAGE, question);
        Ok(within(PULL, pull).await?.image_ref)
    }

    /// Removes an image with all of its names, pinned or not. It is no error if it is not there. Cancelled, it may go or stay.
    ///
    /// # Errors
    /// It cannot, or takes longer than two minutes.
    pub async fn remove(&self, id: &str) -> Result<(), CriError> {
        within(REMOVAL, call(&self.channel, REMOVE_IMAGE, one(id))).await
    }

    /// The folder whose filesystem images are on, as the host sees it. Cancellation safe.
    ///
    /// # Errors
    /// It does not say within ten seconds.
    pub async fn image_folder(&self) -> Result<Option<PathBuf>, CriError> {
        let info: ImageFsInfoResponse = within(QUESTION, call(&self.channel, IMAGE_FS_INFO, ())).await?;
        let first = info.image_filesystems.into_iter().find_map(|usage| usage.fs_id);
        Ok(first.map(|id| PathBuf::from(id.mountpoint)).filter(|path| path.is_absolute()))
    }

    /// Names and IDs of the images of all containers that exist, ended ones and image volumes included. Cancellation safe.
    ///
    /// # Errors
    /// It does not say within ten seconds.
    pub async fn used(&self) -> Result<HashSet<String>, CriError> {
        let list: ListContainersResponse = within(QUESTION, call(&self.channel, LIST_CONTAINERS, ())).await?;
        let mut names = HashSet::new();
        let mut volumes = HashMap::new();
        for container in list.containers {
            let known = self.volumes.lock().unwrap_or_else(PoisonError::into_inner).get(&container.id).cloned();
            let images = match known {
                Some(images) => images,
                None => self.volumes_of(&container.id).await?,
            };
            names.extend(images.iter().cloned());
            volumes.insert(container.id, images);
            let image = container.image.map(|spec| spec.image).unwrap_or_default();
            names.extend([image, container.image_ref, container.image_id]);
        }
        *self.volumes.lock().unwrap_or_else(PoisonError::into_inner) = volumes;
        names.remove("");
        Ok(names)
    }

    /// The images that a container has as volumes.
    async fn volumes_of(&self, id: &str) -> Result<Vec<String>, CriError> {
        let one = OneContainer { id: id.to_owned() };
        match within(QUESTION, call::<_, ContainerStatusResponse>(&self.channel, CONTAINER_STATUS, one)).await {
            Ok(answer) => {
                let mounts = answer.status.into_iter().flat_map(|status| status.mounts);
                Ok(mounts.filter_map(|mount| mount.image).map(|image| image.image).collect())
            }
            // It is gone since.
            Err(CriError::Failed { code: Code::NotFound, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl CriImage {
    /// Whether `used`, of [`Cri::used`], has it.
    pub fn is_among(&self, used: &HashSet<String>) -> bool {
        let names = std::iter::once(&self.id).chain(&self.tags).chain(&self.digests);
        // CRI-O writes IDs without their algorithm, here or there.
        let bare = self.id.strip_prefix("sha256:").unwrap_or(&self.id);
        names.into_iter().any(|name| used.contains(name))
            || used.contains(bare)
            || used.contains(&format!("sha256:{bare}"))
    }
}

impl From<messages::Image> for CriImage {
    fn from(image: messages::Image) -> CriImage {
        let messages::Image { id, repo_tags, repo_digests, size, pinned } = image;
        CriImage { id, tags: repo_tags, digests: repo_digests, bytes: size, pinned }
    }
}

fn one(name: &str) -> OneImage {
    OneImage { image: Some(ImageSpec { image: name.to_owned() }) }
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, CriError> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CriError::Silent(format!("nothing came for {} s", limit.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_used_under_any_of_its_names() {
        let image = CriImage {
            id: "sha256:c0".into(),
            tags: vec!["docker.io/library/a:1".into()],
            digests: vec!["docker.io/library/a@sha256:d0".into()],
            ..CriImage::default()
        };
        for name in ["sha256:c0", "c0", "docker.io/library/a:1", "docker.io/library/a@sha256:d0"] {
            assert!(image.is_among(&HashSet::from([name.to_owned()])), "{name}");
        }
        assert!(!image.is_among(&HashSet::from(["sha256:c1".to_owned(), "docker.io/library/a:2".to_owned()])));
    }

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_silent() {
        let cri = Cri::at(Path::new("/nowhere/containerd.sock")).unwrap();
        let error = cri.images().await.expect_err("nobody is there");
        assert!(matches!(&error, CriError::Silent(why) if why.contains("No such file")), "{error:?}");
        assert!(matches!(Cri::at(Path::new("")), Err(CriError::Path(_)) | Ok(_)));
    }
}
