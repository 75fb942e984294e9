//! The `larder` program: the command line, and the wiring of the roles.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod certs;
mod cli;
mod config;
mod controller;
mod doctor;
mod failure;
mod identities;
mod keeping;
mod logging;
mod node;
mod people;
mod process;
mod registries;
mod scrub;
mod serving;
mod sharing;
mod upstreams;
mod watchdog;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing installed a provider before");
    cli::run()
}
