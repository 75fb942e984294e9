//! A real API server takes the definitions, checks objects by them and shows them.

mod bad;
mod client;
mod extremes;
mod good;
mod rules;
mod shown;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testbed::{Cluster, ClusterSpec, wait_for, with_cluster};

use client::Server;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_api_server_checks_and_shows_objects_as_the_types_say() -> Result<()> {
    with_cluster(&ClusterSpec::new("resources").nodes(0), |cluster| {
        install(cluster)?;
        let server = Server::of(cluster.kubectl().config())?;
        rules::good_objects_are_taken(&server)?;
        rules::bad_objects_are_refused(&server)?;
        rules::defaults_are_filled_in(&server)?;
        rules::what_must_stay_stays(&server)?;
        rules::the_largest_objects_are_taken(&server)?;
        extremes::what_is_taken_can_be_read(&server)?;
        extremes::what_is_too_large_is_refused(&server)?;
        shown::a_status_is_written_by_itself(&server)?;
        shown::columns_are_there(&server)?;
        shown::kubectl_knows_the_kinds(cluster)
    })
}

/// Installs the definitions that the chart has, as helm does, and waits until they are in force.
fn install(cluster: &Cluster) -> Result<()> {
    let folder = resources::root().join("chart/larder/crds");
    let mut command = cluster.kubectl().command();
    let output = command.args(["apply", "--server-side", "-f"]).arg(&folder).output()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    // A warning is about something that the API server does not do as it says.
    ensure!(output.status.success() && complaints.is_empty(), "{complaints}");
    for definition in api::definitions() {
        let name = definition.metadata.name.context("a definition has a name")?;
        wait_for(&format!("{name} is in force"), PATIENCE, || {
            let found = cluster.kubectl().json(&["get", "crd", &name])?;
            Ok(testbed::has_condition(&found, "Established").then_some(()))
        })?;
        let found = cluster.kubectl().json(&["get", "crd", &name])?;
        ensure!(testbed::has_condition(&found, "NamesAccepted"), "{found:#}");
        ensure!(!testbed::has_condition(&found, "NonStructuralSchema"), "{found:#}");
    }
    Ok(())
}
