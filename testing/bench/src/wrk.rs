//! Requests per second and latencies, by wrk.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::client::ACCEPT;

/// With one path wrk sends the same bytes over and over; several take turns.
const SCRIPT: &str = r#"
wrk.headers["Accept"] = "ACCEPT"
local paths, requests, turn = {}, {}, 0
function init(args)
   if #args > 1 then
      for _, path in ipairs(args) do requests[#requests + 1] = wrk.format("GET", path) end
      request = function()
         turn = turn % #requests + 1
         return requests[turn]
      end
   end
end
function done(summary, latency)
   local e = summary.errors
   io.write(string.format("result %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What wrk saw.
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// GETs over 32 connections by one thread, for so many seconds (at least 1).
pub(crate) fn run(address: SocketAddr, paths: &[String], seconds: f64) -> Result<Rate> {
    let script = crate::folder().join("wrk.lua");
    fs::write(&script, SCRIPT.replace("ACCEPT", ACCEPT))?;
    let seconds = format!("{}s", seconds.ceil().max(1.0));
    let output = Command::new("wrk")
        .args(["-t", "1", "-c", "32", "-d", &seconds, "--latency", "-s"])
        .arg(&script)
        .arg(format!("http://{address}{}", paths[0]))
        .arg("--")
        .args(paths)
        .output()
        .context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text
        .lines()
        .find_map(|line| line.strip_prefix("result "))
        .with_context(|| format!("wrk gave no result:\n{text}{}", String::from_utf8_lossy(&output.stderr)))?
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [requests, micros, p50, p99, errors] = numbers[..] else { bail!("wrk's result is not understood") };
    if errors > 0.0 || requests == 0.0 {
        bail!("{errors} of {requests} requests for {} failed:\n{text}", paths[0]);
    }
    Ok(Rate { per_second: requests * 1e6 / micros, p50_ms: p50 / 1e3, p99_ms: p99 / 1e3 })
}
