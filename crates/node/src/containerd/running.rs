use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::Code;

use crate::grpc::{call, endpoint};

/// How long a running containerd may take to answer everything: its files speak for one that hangs.
const LIMIT: Duration = Duration::from_secs(2);

const VERSION: &str = "/containerd.services.version.v1.Version/Version";
const PLUGINS: &str = "/containerd.services.introspection.v1.Introspection/Plugins";
/// Who pulls for CRI since containerd 2.0; it exports its settings since 2.4.
const IMAGES: &str = "type==io.containerd.cri.v1,id==images";

/// What a running containerd says of itself. Every answer may be missing: the configuration files speak then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// Its version, as its version service gives it.
    pub version: Option<String>,
    /// `RegistryConfigPath` of the images plugin's exports (2.4 and later); empty if it reads no hosts.toml.
    pub registry_config_path: Option<String>,
    /// `DiscardUnpackedLayers` of the same.
    pub discard_unpacked_layers: Option<bool>,
}

/// Why a containerd says nothing of itself.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its socket's path is not one that can be asked.
    #[error("{} is no path of a socket", .0.display())]
    Path(PathBuf),
    /// Nobody is there, or who is there may not be spoken to.
    #[error("cannot connect to {}: {reason}", socket.display())]
    Connect {
        /// Its socket, as this process sees it.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// It gives no answer, or one that is none.
    #[error("{} gives no answer: {reason}", socket.display())]
    Answer {
        /// Its socket, as this process sees it.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Asks the containerd at a socket, as this process sees it. Takes two seconds at most. Cancellation safe.
///
/// # Errors
/// Nobody answers there who speaks as containerd does.
pub async fn ask(socket: &Path) -> Result<Running, AskError> {
    let silent = |_| AskError::Answer { socket: socket.to_owned(), reason: "it is silent".to_owned() };
    tokio::time::timeout(LIMIT, ask_patiently(socket)).await.map_err(silent)?
}

async fn ask_patiently(socket: &Path) -> Result<Running, AskError> {
    let endpoint = endpoint(socket).ok_or_else(|| AskError::Path(socket.to_owned()))?;
    let channel = endpoint.connect().await.map_err(|error| {
        let reason = crate::error::innermost(&error);
        AskError::Connect { socket: socket.to_owned(), reason }
    })?;
    let VersionResponse { version } = call(&channel, VERSION, ()).await.map_err(|status| {
        let reason = match status.code() {
            Code::Unimplemented => "it is no containerd".to_owned(),
            _ => status.message().to_owned(),
        };
        AskError::Answer { socket: socket.to_owned(), reason }
    })?;
    let mut running = Running { version: Some(version), ..Running::default() };
    // A containerd that has told its version and nothing else is still one that is known better.
    let request = PluginsRequest { filters: vec![IMAGES.to_owned()] };
    match call::<_, PluginsResponse>(&channel, PLUGINS, request).await {
        Ok(PluginsResponse { plugins }) => running.take(plugins),
        Err(status) => tracing::debug!(socket = %socket.display(), %status, "containerd does not tell its plugins"),
    }
    Ok(running)
}

impl Running {
    fn take(&mut self, plugins: Vec<Plugin>) {
        for Plugin { mut exports } in plugins {
            self.registry_config_path = exports.remove("RegistryConfigPath");
            self.discard_unpacked_layers = exports.get("DiscardUnpackedLayers").and_then(|word| word.parse().ok());
        }
    }
}

// Of containerd's messages (api/services/{version,introspection}/v1), the fields that are looked at; others are skipped.

#[derive(Clone, PartialEq, prost::Message)]
struct VersionResponse {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PluginsRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PluginsResponse {
    #[prost(message, repeated, tag = "1")]
    plugins: Vec<Plugin>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Plugin {
    #[prost(map = "string, string", tag = "5")]
    exports: HashMap<String, String>,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let text = ask(Path::new("/nowhere/containerd.sock")).await.expect_err("nobody is there").to_string();
        assert_eq!(text, "cannot connect to /nowhere/containerd.sock: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn one_that_is_silent_costs_little_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("silent.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let begun = Instant::now();
        let text = ask(&socket).await.expect_err("it says nothing").to_string();
        assert!(text.contains("silent.sock gives no answer"), "{text}");
        assert!(begun.elapsed() < 2 * LIMIT, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn one_that_speaks_otherwise_is_no_containerd() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("other.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let text = ask(&socket).await.expect_err("it is something else").to_string();
        assert!(text.contains("other.sock"), "{text}");
        other.join().unwrap();
    }

    #[test]
    fn what_the_images_plugin_exports_is_taken() {
        let exports = |pairs: &[(&str, &str)]| Plugin {
            exports: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let mut running = Running::default();
        running.take(vec![exports(&[("RegistryConfigPath", "/a:/b"), ("DiscardUnpackedLayers", "true"), ("x", "y")])]);
        assert_eq!(running.registry_config_path.as_deref(), Some("/a:/b"));
        assert_eq!(running.discard_unpacked_layers, Some(true));
        let mut older = Running::default();
        older.take(vec![exports(&[])]);
        assert_eq!(older, Running::default());
    }
}
