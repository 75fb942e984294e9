//! Has the plan happen.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use faulty::{Ending, Fault as Answer, Kind, Rule};
use rustix::process::Signal;
use testbed::{Rate, wait_until_ok};

use crate::lab::{Lab, node_spec};
use crate::plan::{COMES_AND_GOES, Fault, HAS_DISK, Step, Wrong, name};
use crate::processes::{self, Role};
use crate::report::Journal;
use crate::windows::Windows;

/// A runtime's disk that is full has so much left, for what is small.
const LEFT: u64 = 64 << 10;

/// Has all steps happen at their times, and returns when the last has ended. What was done with a fault that could not be brought about is
/// in the journal: nobody can tell then what follows.
pub fn all(lab: &Lab, steps: &[Step], began: Instant, windows: &Windows, journal: &Journal) {
    thread::scope(|scope| {
        for step in steps {
            scope.spawn(move || {
                thread::sleep((began + step.at).saturating_duration_since(Instant::now()));
                if let Err(error) = happen(lab, step, windows, journal) {
                    journal.breach(format!("{}: could not be done: {error:#}", step.fault));
                }
            });
        }
    });
}

fn happen(lab: &Lab, step: &Step, windows: &Windows, journal: &Journal) -> Result<()> {
    journal.note(format!("{} for {} s", step.fault, step.lasts.as_secs()));
    journal.happened(step.fault);
    let need = step.fault.takes();
    if let Some(need) = need {
        windows.open(need);
    }
    let done = begin(lab, step.fault).and_then(|end| {
        thread::sleep(step.lasts);
        end(lab)
    });
    if let Some(need) = need {
        windows.close(need);
    }
    journal.note(format!("{}: over", step.fault));
    done
}

type End = Box<dyn FnOnce(&Lab) -> Result<()>>;

fn nothing() -> End {
    Box::new(|_| Ok(()))
}

/// Begins, and gives what ends it.
fn begin(lab: &Lab, fault: Fault) -> Result<End> {
    let cluster = lab.cluster().name().to_owned();
    let signal = |role, node: Option<usize>, signal| -> Result<()> {
        let node = node.map(name);
        processes::of(&cluster, role, node.as_deref())?.iter().try_for_each(|process| process.signal(signal))
    };
    Ok(match fault {
        Fault::AgentKilled(node) => {
            signal(Role::Node, Some(node), Signal::KILL)?;
            nothing()
        }
        Fault::RegistryKilled => {
            signal(Role::Registry, None, Signal::KILL)?;
            nothing()
        }
        Fault::ControllersKilled => {
            signal(Role::Controller, None, Signal::KILL)?;
            nothing()
        }
        Fault::AgentStopped(node) => stopped(processes::of(&cluster, Role::Node, Some(&name(node)))?)?,
        Fault::RegistryStopped => stopped(processes::of(&cluster, Role::Registry, None)?)?,
        Fault::Upgrade => {
            let restart = ["--request-timeout=10s", "rollout", "restart", "daemonset/larder-node", "-n"];
            lab.kubectl().run(&[&restart[..], &[testbed::larder::NAMESPACE]].concat())?;
            nothing()
        }
        Fault::NodeCut(node) => {
            lab.on(node, |node| node.link().cut())?;
            Box::new(move |lab| lab.on(node, |node| node.link().mend()))
        }
        Fault::NodesApart(one, other) => {
            let address = lab.on(other, |node| Ok(node.machine().address()))?;
            lab.on(one, |node| node.cut_off(address))?;
            Box::new(move |lab| lab.on(one, testbed::Node::reconnect))
        }
        Fault::NodeSlow(node) => {
            lab.on(node, |node| node.link().cap(Rate::mbit(20)))?;
            Box::new(move |lab| lab.on(node, |node| node.link().uncap()))
        }
        Fault::Corrupted(node) => {
            for store in lab.stores(node)? {
                corrupt(&store)?;
            }
            nothing()
        }
        Fault::DiskFull => {
            // What is written meanwhile makes it too little for a moment.
            let fill = || lab.on(HAS_DISK, |node| node.fill_disk(LEFT));
            wait_until_ok("the disk is full", Duration::from_secs(10), fill)?;
            Box::new(|lab| lab.on(HAS_DISK, testbed::Node::free_disk))
        }
        Fault::NodeReplaced => {
            lab.change().remove_node(&name(COMES_AND_GOES))?;
            Box::new(|lab| lab.change().add_node(&node_spec(COMES_AND_GOES)).map(drop))
        }
        Fault::OriginStopped => {
            lab.cluster().origin("docker.io")?.process()?.stop()?;
            Box::new(|lab| lab.cluster().origin("docker.io")?.process()?.go_on())
        }
        Fault::OriginDown => {
            lab.cluster().origin("docker.io")?.process()?.kill()?;
            Box::new(|lab| lab.cluster().origin("docker.io")?.process()?.start_again())
        }
        Fault::OriginWrong(wrong) => {
            lab.second.rules(rules(wrong));
            Box::new(|lab| {
                lab.second.clear_rules();
                // Answers under way would keep their faults.
                lab.second.drop_connections();
                Ok(())
            })
        }
        Fault::ApiServerStopped => {
            lab.cluster().control().machine().process("kube-apiserver")?.stop()?;
            Box::new(|lab| lab.cluster().control().machine().process("kube-apiserver")?.go_on())
        }
    })
}

fn stopped(found: Vec<processes::Process>) -> Result<End> {
    found.iter().try_for_each(|process| process.signal(Signal::STOP))?;
    // Its supervisor may have ended it by then.
    Ok(Box::new(move |_| found.iter().try_for_each(|process| process.signal(Signal::CONT))))
}

fn rules(wrong: Wrong) -> Vec<Rule> {
    let blobs = |fault| vec![Rule::on(Kind::Blob).get().fault(fault)];
    match wrong {
        Wrong::Limits => vec![Rule::any().before_auth().fault(Answer::too_many(Some("5")))],
        Wrong::Fails => vec![Rule::any().before_auth().fault(Answer::status(503))],
        Wrong::BreaksOff => blobs(Answer::cut_half(Ending::Reset)),
        Wrong::Trickles => blobs(Answer::Trickle(100_000)),
        Wrong::Tokens => vec![Rule::on(Kind::Token).before_auth().fault(Answer::status(500))],
        Wrong::OtherBytes => blobs(Answer::OtherBytes),
    }
}

/// Gives the largest blob below a folder other bytes in its middle.
fn corrupt(store: &Path) -> Result<()> {
    let mut largest: Option<(u64, PathBuf)> = None;
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if path.components().any(|part| part.as_os_str() == "sha256") {
                let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
                if largest.as_ref().is_none_or(|(most, _)| size > *most) {
                    largest = Some((size, path));
                }
            }
        }
    }
    let Some((size, path)) = largest else { return Ok(()) };
    // It may be gone by now, or not be writable as it is: neither is what this is about.
    let opened = File::options().write(true).open(&path);
    let Ok(mut file) = opened else { return Ok(()) };
    file.seek(SeekFrom::Start(size / 2)).context("cannot seek")?;
    file.write_all(b"these are other bytes").with_context(|| format!("cannot write {}", path.display()))
}
