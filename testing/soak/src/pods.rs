//! Pods come and go, and each is watched: those that may start must, and the others must not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::lab::{Lab, MOVING, NAMESPACE, Used, moving};
use crate::plan::{COMES_AND_GOES, NODES, Need, name};
use crate::report::Journal;
use crate::windows::Windows;

/// A pod must run so long after it was made, where all is well but larder.
const BOUND: Duration = Duration::from_secs(90);
/// How many there are at most at a time.
const AT_ONCE: usize = 20;
/// How often one is made, and how often all are looked at.
const BEAT: Duration = Duration::from_millis(1500);
/// How long a pod that must not start is watched.
const WATCHED: Duration = Duration::from_secs(40);

/// A pod of ours.
struct Pod {
    node: usize,
    image: Used,
    may_start: bool,
    made: Instant,
    /// When it was seen running, and how long it is to live then.
    runs: Option<Instant>,
    lives: Duration,
    told: bool,
}

impl Pod {
    fn needs(&self) -> [Need; 3] {
        [Need::Node(self.node), self.image.origin, Need::ApiServer]
    }
}

/// Makes pods and watches them until `over`, and then until what there is has been decided.
pub fn keep(lab: &Lab, seed: u64, over: &AtomicBool, windows: &Windows, journal: &Journal) {
    let mut pods = Pods {
        lab,
        windows,
        journal,
        pods: HashMap::new(),
        dice: StdRng::seed_from_u64(seed ^ 0x90d5),
        made: 0,
        waits: Vec::new(),
        refused: 0,
        disturbed: 0,
    };
    loop {
        let ending = over.load(Ordering::Relaxed);
        if ending && pods.pods.values().all(|pod| pod.runs.is_some() || pod.told || !pod.may_start) {
            break;
        }
        if !ending && pods.pods.len() < AT_ONCE && windows.has(Need::ApiServer) {
            pods.make();
        }
        pods.look();
        thread::sleep(BEAT);
    }
    pods.sum_up();
}

struct Pods<'a> {
    lab: &'a Lab,
    windows: &'a Windows,
    journal: &'a Journal,
    pods: HashMap<String, Pod>,
    dice: StdRng,
    made: usize,
    /// How long those took that nothing disturbed but larder.
    waits: Vec<Duration>,
    refused: usize,
    disturbed: usize,
}

impl Pods<'_> {
    fn make(&mut self) {
        let node = self.dice.random_range(0..NODES);
        if !self.windows.has(Need::Node(node)) && node == COMES_AND_GOES {
            return;
        }
        let image = if self.dice.random_range(0..6) == 0 {
            let reference = moving(self.dice.random_range(0..MOVING));
            Used { reference, origin: Need::First, private: false }
        } else {
            self.lab.images[self.dice.random_range(0..self.lab.images.len())].clone()
        };
        let secret = match self.dice.random_range(0..6) {
            _ if !image.private => None,
            0 => None,
            1 => Some("wrong"),
            2 => Some("stranger"),
            _ => Some("right"),
        };
        let policy = if self.dice.random_range(0..3) == 0 { "Always" } else { "IfNotPresent" };
        self.made += 1;
        let pod_name = format!("pod-{}", self.made);
        let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name, "namespace": NAMESPACE},
            "spec": {
                "nodeName": name(node), "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "main", "image": image.reference, "imagePullPolicy": policy}],
            },
        });
        let made = Instant::now();
        if self.lab.kubectl().apply(&object.to_string()).is_err() {
            return;
        }
        let may_start = !image.private || secret == Some("right");
        let lives = Duration::from_secs(self.dice.random_range(5..60));
        self.pods.insert(pod_name, Pod { node, image, may_start, made, runs: None, lives, told: false });
    }

    fn look(&mut self) {
        let Ok(list) = self.lab.get(&["pods", "-n", NAMESPACE]) else { return };
        let there: HashMap<&str, &Value> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?, pod)))
            .collect();
        let mut gone = Vec::new();
        for (pod_name, pod) in &mut self.pods {
            let Some(object) = there.get(pod_name.as_str()) else {
                // It went with its node.
                if pod.node == COMES_AND_GOES || !self.windows.has(Need::ApiServer) {
                    gone.push(pod_name.clone());
                }
                continue;
            };
            let undisturbed = self.windows.undisturbed(pod.made, &pod.needs());
            let state = &object["status"]["containerStatuses"][0]["state"];
            if !state["running"].is_null() && pod.runs.is_none() {
                pod.runs = Some(Instant::now());
                if !pod.may_start {
                    self.journal.breach(format!("{pod_name} runs {} without the right to it", pod.image.reference));
                } else if undisturbed {
                    self.waits.push(pod.made.elapsed());
                } else {
                    self.disturbed += 1;
                }
            }
            let reason = state["waiting"]["reason"].as_str().unwrap_or_default();
            let failed = ["ErrImagePull", "ImagePullBackOff"].contains(&reason);
            if pod.may_start && pod.runs.is_none() && !pod.told {
                let late = self.windows.deadline(pod.made, &pod.needs(), BOUND).is_some_and(|end| Instant::now() > end);
                if late || (failed && undisturbed) {
                    pod.told = true;
                    let waited = pod.made.elapsed().as_secs();
                    let message = state["waiting"]["message"].as_str().unwrap_or_default();
                    let (image, node) = (&pod.image.reference, name(pod.node));
                    self.journal.breach(format!(
                        "{pod_name} of {image} does not run on {node} after {waited} s: {reason} {message}"
                    ));
                }
            }
            let over = match pod.runs {
                Some(runs) => runs.elapsed() > pod.lives,
                None if pod.may_start => pod.told && pod.made.elapsed() > 3 * BOUND,
                None => pod.made.elapsed() > WATCHED,
            };
            if over {
                gone.push(pod_name.clone());
            }
        }
        for pod_name in gone {
            if self.delete(&pod_name).is_ok()
                && let Some(pod) = self.pods.remove(&pod_name)
                && !pod.may_start
                && pod.runs.is_none()
            {
                self.refused += 1;
            }
        }
    }

    fn delete(&self, pod: &str) -> Result<()> {
        let words = ["--request-timeout=8s", "delete", "pod", "-n", NAMESPACE, "--ignore-not-found", "--wait=false"];
        self.lab.kubectl().run(&[&words[..], &["--grace-period=0", "--force", pod]].concat()).map(drop)
    }

    fn sum_up(mut self) {
        self.waits.sort_unstable();
        let at = |part: usize| self.waits.get(self.waits.len() * part / 100).map_or(0.0, Duration::as_secs_f64);
        let started = format!(
            "{}, of {} made; {} more that something disturbed which pulls without larder need too",
            self.waits.len(),
            self.made,
            self.disturbed
        );
        self.journal.figure("pods that started", started);
        self.journal.figure(
            "until a pod ran",
            format!(
                "{:.1} s median, {:.1} s p95, {:.1} s at most",
                at(50),
                at(95),
                self.waits.last().map_or(0.0, Duration::as_secs_f64)
            ),
        );
        self.journal.figure("pods without the right to their image, which did not start", self.refused.to_string());
        if self.waits.len() < self.made / 4 {
            self.journal.breach("too few pods started to tell anything");
        }
    }
}
