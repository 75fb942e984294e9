use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::population::{Population, node_name};
use super::requests::{Body, Server};

/// A kubelet that has nothing new to say writes so often.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// Kubelets that write their heartbeats until this is dropped.
pub(super) struct Kubelets(JoinHandle<Result<()>>);

impl Kubelets {
    pub(super) fn start(runtime: &Runtime, api: &Server, nodes: usize) -> Kubelets {
        Kubelets(runtime.spawn(beat(api.clone(), nodes)))
    }

    pub(super) fn require_running(&self) -> Result<()> {
        if self.0.is_finished() {
            bail!("the kubelets have ended, so that nodes were quieter than they are");
        }
        Ok(())
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn beat(api: Server, nodes: usize) -> Result<()> {
    let mut turns = tokio::time::interval(HEARTBEAT / u32::try_from(nodes)?);
    for node in (0..nodes).cycle() {
        turns.tick().await;
        let path = format!("/api/v1/nodes/{}/status", node_name(node));
        api.write(&path, Body::Strategic, &Population::heartbeat(&time())).await?;
    }
    Ok(())
}

/// The time of day of the first of January: what matters is that it is another one each time.
fn time() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("2026-01-01T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
