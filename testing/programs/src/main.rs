//! Builds the pinned programs that the tests run, or says where they are.

use std::{env, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use programs::{Group, Program, debian, ensure, path_of};

const USAGE: &str = "\
Builds the real programs that the tests run, into $LARDER_TOOLS_DIR or the user's cache folder.

Usage:
  programs ensure NAME...        build what is missing of these and print their paths
  programs ensure --group NAME   the same for a group, with its Debian packages
  programs ensure --all          every program and every package
  programs path NAME             print where a program is, whether or not it is built
  programs list                  name every program and group
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("programs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["ensure", rest @ ..] if !rest.is_empty() => {
            let wanted = Wanted::parse(rest)?;
            debian(&wanted.packages)?;
            for (program, path) in ensure(&wanted.programs)?.iter() {
                println!("{program} {}", path.display());
            }
        }
        ["path", name] => println!("{}", path_of(program(name)?)?.display()),
        ["list"] => {
            for program in Program::ALL {
                println!("{program}");
            }
            for group in Group::ALL {
                println!("--group {}", group.name());
            }
        }
        ["help" | "--help" | "-h"] => print!("{USAGE}"),
        _ => bail!("what is wanted?\n\n{USAGE}"),
    }
    Ok(())
}

#[derive(Default)]
struct Wanted {
    programs: Vec<Program>,
    packages: Vec<&'static str>,
}

impl Wanted {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut wanted = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--all" => {
                    wanted.programs.extend(Program::ALL);
                    Group::ALL.iter().for_each(|group| wanted.packages.extend(group.packages()));
                }
                "--group" => {
                    let name = words.next().context("--group needs a name")?;
                    let group = Group::named(name).with_context(|| format!("no group is called {name}"))?;
                    wanted.programs.extend(group.programs());
                    wanted.packages.extend(group.packages());
                }
                name => wanted.programs.push(program(name)?),
            }
        }
        Ok(wanted)
    }
}

fn program(name: &str) -> Result<Program> {
    Program::named(name).with_context(|| format!("no program is called {name}; `programs list` names them all"))
}
