//! Every command of the tutorial, as it stands there.

mod page;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use page::{Step, matches, steps};

const NAME: &str = "tutorial";

/// How the page has the reader run the testbed. The test has it built already.
const CARGO: [&str; 2] = ["cargo run -p testbed --", "cargo run -q -p testbed --"];

#[test]
fn everything_that_the_tutorial_says_happens() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("it is in a workspace")?;
    let page = fs::read_to_string(root.join("docs/tutorial.md"))?;
    let mut steps = steps(&page).into_iter();
    let (up, env) = (steps.next().context("a command")?, steps.next().context("a command")?);
    ensure!(up.command.starts_with(CARGO[0]) && env.command.contains(CARGO[1]), "{up:?} {env:?}");

    let mut cluster = Up(shell(root, &testbed(&up.command)).stdout(Stdio::piped()).spawn()?);
    let said = BufReader::new(cluster.0.stdout.take().context("it was asked for")?);
    ensure!(said.lines().map_while(Result::ok).any(|line| line.starts_with("logs:")), "it does not come up");
    let mut done = 0;
    for step in steps {
        let script = format!("{}\n{}", testbed(&env.command), step.command);
        let output = shell(root, &script).stderr(Stdio::piped()).stdout(Stdio::piped()).output()?;
        // A reader sees both, in whichever order.
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("$ {}\n{err}{out}", step.command);
        if !output.status.success() || !matches(&step.output, &format!("{err}{out}")) {
            bail!("$ {}\nsays\n{err}{out}\nand not, as the page has it,\n{}", step.command, step.output);
        }
        done += 1;
    }
    ensure!(done > 30, "only {done} commands were found in the page");
    let ended = Command::new(env!("CARGO_BIN_EXE_testbed")).args(["--name", NAME, "down"]).status()?;
    ensure!(ended.success() && cluster.0.wait()?.success(), "it does not end in order");
    Ok(())
}

/// The command with the testbed that was built for this test.
fn testbed(command: &str) -> String {
    CARGO.iter().fold(command.to_owned(), |command, cargo| command.replace(cargo, env!("CARGO_BIN_EXE_testbed")))
}

fn shell(root: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(root).stdin(Stdio::null());
    command.env("LARDER_TESTBED_NAME", NAME);
    command
}

/// A cluster that ends with the test, whatever becomes of that.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = Command::new(env!("CARGO_BIN_EXE_testbed")).args(["--name", NAME, "down"]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_differs_by_chance_is_no_difference() {
    let said = "NAME   AGE   SIZE\na      12s   64 MiB\n";
    for (page, same) in [
        ("NAME AGE SIZE\na 3m10s 1.5 GiB", true),
        ("NAME ...\na ...", true),
        ("...\na 1s 2 KiB", true),
        ("NAME AGE SIZE\nb 12s 64 MiB", false),
        ("NAME AGE SIZE", false),
        ("NAME AGE\n...", false),
        ("NAME AGE SIZE\na 12s 64 MiB\nb", false),
    ] {
        assert_eq!(matches(page, said), same, "{page}");
    }
    assert!(!matches("a 3 nodes", "a 2 nodes"), "figures without a unit count");
    assert!(matches("image@sha256:...", "image@sha256:77"));
    let steps = steps("text\n\n    $ one <<EOF\n    two\n    EOF\n    said\n\n    more\n\ntext\n\n    three\n");
    let found: Vec<_> = steps.iter().map(|Step { command, output }| (&**command, &**output)).collect();
    assert_eq!(found, [("one <<EOF\ntwo\nEOF", "said\n\nmore"), ("three", "")]);
}
