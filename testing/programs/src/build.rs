//! Builds what is missing in the cache of programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};

use crate::{Program, lock::lock};

/// The toolchain that the modules are pinned to; any Go of 1.21 or later fetches it by itself.
const TOOLCHAIN: &str = "go1.27.3";
/// Static programs, so that they also run as the only file of a container image.
const ENVIRONMENT: &[(&str, &str)] =
    &[("GOTOOLCHAIN", TOOLCHAIN), ("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOFLAGS", "")];
const FLAGS: &[&str] = &["-trimpath", "-buildvcs=false"];
const LINKER_FLAGS: &str = "-s -w";
/// What a build of the largest program takes at its peak, with room for the rest of the machine.
const MEMORY_PER_BUILD: u64 = 6 << 30;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Paths(BTreeMap<Program, PathBuf>);

impl Paths {
    /// The path of a program that was asked for.
    ///
    /// # Panics
    ///
    /// Where the program was not among those given to [`ensure`].
    #[must_use]
    pub fn get(&self, program: Program) -> &Path {
        match self.0.get(&program) {
            Some(path) => path,
            None => panic!("{program} is not among the programs that were ensured"),
        }
    }

    /// Adds those of `more`.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Each program with its path.
    pub fn iter(&self) -> impl Iterator<Item = (Program, &Path)> {
        self.0.iter().map(|(program, path)| (*program, path.as_path()))
    }

    /// The folders of all programs, to be put before a `PATH`.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let folders: BTreeSet<_> = self.0.values().filter_map(|path| path.parent()).collect();
        folders.into_iter().map(Path::to_owned).collect()
    }
}

/// The folder that holds the built programs: `$LARDER_TOOLS_DIR`, else `larder-tools` in the user's cache folder.
///
/// # Errors
///
/// Where neither the variable nor a home directory is known.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("LARDER_TOOLS_DIR")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("larder-tools")))
        .or_else(|| Some(set("HOME")?.join(".cache/larder-tools")))
        .ok_or_else(|| anyhow!("no place for built programs: set LARDER_TOOLS_DIR"))
}

/// Where a program is, or will be once it is built. Its folder is named by what it is built from.
///
/// # Errors
///
/// Where its module cannot be read or no cache folder is known.
pub fn path_of(program: Program) -> Result<PathBuf> {
    let module = module_dir(program);
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module.join(file);
        hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        hash.update([0]);
    }
    for (name, value) in ENVIRONMENT {
        hash.update(format!("{name}={value}\0"));
    }
    for flag in FLAGS {
        hash.update(format!("{flag}\0"));
    }
    for other in Program::ALL.iter().filter(|other| other.source().module == program.source().module) {
        hash.update(linker_flags(*other));
        hash.update([0]);
    }
    let key: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache_dir()?.join(format!("{}-{key}", program.source().module)).join(program.file_name()))
}

/// Makes sure that each of the programs is built, and says where it is. What is there already costs no more than a look.
///
/// Progress goes to standard error. Processes that want the same program at the same time wait for each other.
///
/// # Errors
///
/// Where Go is missing, a module cannot be fetched, or a program does not compile or does not run.
pub fn ensure(programs: &[Program]) -> Result<Paths> {
    let mut paths = BTreeMap::new();
    let mut missing = Vec::new();
    for &program in programs {
        let path = path_of(program)?;
        if !path.exists() && !missing.contains(&program) {
            missing.push(program);
        }
        paths.insert(program, path);
    }
    if !missing.is_empty() {
        require_go()?;
        build_all(&missing, &paths)?;
    }
    Ok(Paths(paths))
}

fn build_all(missing: &[Program], paths: &BTreeMap<Program, PathBuf>) -> Result<()> {
    let total = missing.len();
    let waiting = Mutex::new(missing.iter().copied().enumerate());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers().min(total) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().ok().and_then(|mut waiting| waiting.next());
                    let Some((index, program)) = next else { return };
                    let label = format!("[{}/{total}] {program}", index + 1);
                    if let Err(error) = build(program, &paths[&program], &label) {
                        eprintln!("{label}: failed");
                        if let Ok(mut failures) = failures.lock() {
                            failures.push(error);
                        }
                    }
                }
            });
        }
    });
    match failures.into_inner() {
        Ok(failures) => failures.into_iter().next().map_or(Ok(()), Err),
        Err(_) => bail!("a build panicked"),
    }
}

fn build(program: Program, path: &Path, label: &str) -> Result<()> {
    let folder = path.parent().context("a program has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock_file = folder.join(format!("{}.lock", program.file_name()));
    let _held = lock(&lock_file, || eprintln!("{label}: another process is building it; waiting"))?;
    if path.exists() {
        return Ok(());
    }
    eprintln!("{label}: building");
    let started = Instant::now();
    let unfinished = folder.join(format!("{}.new", program.file_name()));
    let output = Command::new("nice")
        .args(["-n", "10", "go", "build"])
        .args(FLAGS)
        .arg("-ldflags")
        .arg(linker_flags(program))
        .arg("-o")
        .arg(&unfinished)
        .arg(program.source().package)
        .envs(ENVIRONMENT.iter().copied())
        .env_remove("GOOS")
        .env_remove("GOARCH")
        .current_dir(module_dir(program))
        .output()
        .context("cannot run nice")?;
    succeeded(&output).with_context(|| format!("cannot build {program} in {}", module_dir(program).display()))?;
    check(program, &unfinished)?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot put {program} at {}", path.display()))?;
    eprintln!("{label}: built in {} s", started.elapsed().as_secs());
    Ok(())
}

/// A program that compiles may still fail at its first instruction, and it is better to hear of that here than in a test.
fn check(program: Program, path: &Path) -> Result<()> {
    let arguments = program.source().check;
    if arguments.is_empty() {
        return Ok(());
    }
    let output =
        Command::new(path).args(arguments).output().with_context(|| format!("cannot run {}", path.display()))?;
    succeeded(&output).with_context(|| format!("{program} was built but does not run"))
}

fn succeeded(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().collect();
    bail!("{}:\n{}", output.status, lines[lines.len().saturating_sub(20)..].join("\n"))
}

fn require_go() -> Result<()> {
    match Command::new("go").arg("version").env("GOTOOLCHAIN", "local").output() {
        Ok(output) => succeeded(&output).context("`go version` fails"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("Go is not installed: install version 1.21 or later (it fetches {TOOLCHAIN} by itself) and try again")
        }
        Err(error) => Err(error).context("cannot run go"),
    }
}

fn linker_flags(program: Program) -> String {
    program.source().define.iter().fold(LINKER_FLAGS.to_owned(), |flags, define| flags + " -X " + define)
}

fn module_dir(program: Program) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools").join(program.source().module)
}

fn workers() -> usize {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let by_memory = available.map_or(1, |kib| (kib << 10) / MEMORY_PER_BUILD);
    let by_cores = thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
    usize::try_from(by_memory).unwrap_or(1).clamp(1, by_cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_place_of_its_own() {
        let places: BTreeSet<_> = Program::ALL.iter().map(|program| path_of(*program).unwrap()).collect();
        assert_eq!(places.len(), Program::ALL.len());
    }

    #[test]
    fn every_package_is_a_tool_of_its_module() {
        for program in Program::ALL {
            let text = fs::read_to_string(module_dir(*program).join("go.mod")).unwrap();
            let package = program.source().package;
            let named = |line: &str| line.trim().trim_start_matches("tool ") == package;
            assert!(text.lines().any(named), "{package} is not a tool of {}", program.source().module);
        }
    }

    #[test]
    fn names_lead_back_to_programs() {
        for program in Program::ALL {
            assert_eq!(Program::named(program.name()), Some(*program));
        }
        assert_eq!(Program::named("cranes"), None);
    }
}
