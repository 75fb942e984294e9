//! Secrets stay in memory: nothing that larder writes, logs, measures or answers has one in it.
#![allow(clippy::unwrap_used, reason = "a test fails where it must")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use faulty::{Auth, Fault, Kind, Rule, Upstream};
use scenarios::{Larder, basic, wait_for};

/// In every secret of these tests.
const SENTINEL: &str = "S3NT1NEL";

/// All that is written below a folder, names included.
fn written(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.push((path.display().to_string(), Vec::new()));
            found.extend(written(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
        }
    }
    found
}

fn contains(text: &[u8], wanted: &str) -> bool {
    text.windows(wanted.len()).any(|part| part == wanted.as_bytes())
}

/// Every way in which a secret may be written down: as it is, and as it goes over the wire.
fn forms(larder_and_clients: &[(&str, &str)], tokens: &BTreeSet<String>) -> Vec<String> {
    let pairs = larder_and_clients.iter().map(|(user, password)| basic(user, password).replace("Basic ", ""));
    pairs.chain([SENTINEL.to_owned()]).chain(tokens.iter().cloned()).collect()
}

// S-25
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_the_process_but_to_whom_it_belongs() -> anyhow::Result<()> {
    let clients = [("ann", "S3NT1NEL-client"), ("eve", "S3NT1NEL-wrong")];
    let own = [("robot", "S3NT1NEL-file"), ("robot", "S3NT1NEL-env")];
    let private = Upstream::start().await?;
    let image = private.image("team/app", "1", &[200_000], 1);
    private.auth(Auth::Bearer);
    private.account(clients[0].0, clients[0].1, &["team/app"]);
    let (by_file, by_env) = (Upstream::start().await?, Upstream::start().await?);
    for (up, auth, (user, password)) in [(&by_file, Auth::Basic, own[0]), (&by_env, Auth::Bearer, own[1])] {
        up.image("team/app", "1", &[200_000], 2);
        up.auth(auth);
        up.account(user, password, &["team/app"]);
    }
    let store = Upstream::start().await?;
    store.mirror_of(&private);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    fs::write(&file, own[0].1)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let shared = |secret: &str| format!("shared = true\ncredential = {{ username = \"robot\", {secret} }}");
    let larder = Larder::builder()
        .config("[limits]\nrefusals = 1000")
        .upstream("private.test", &[&private.url()], "")
        .upstream("file.test", &[&by_file.url()], &shared(&format!("password_file = {:?}", file.display().to_string())))
        .upstream("env.test", &[&by_env.url()], &shared("password_env = \"ROBOT_PASSWORD\""))
        .env("ROBOT_PASSWORD", own[1].1)
        .start()?;

    let mut answers = Vec::new();
    let mut ask = |target: &str, credential: Option<(&str, &str)>| -> anyhow::Result<u16> {
        let header = credential.map(|(user, password)| basic(user, password));
        let headers: Vec<(&str, &str)> = header.iter().map(|value| ("Authorization", value.as_str())).collect();
        let answer = larder.ask("GET", target, &headers)?;
        answers.push(format!("{:?}", answer.headers));
        if answer.status >= 400 {
            answers.push(answer.text());
        }
        Ok(answer.status)
    };
    let manifest = |registry: &str| format!("/v2/team/app/manifests/1?ns={registry}");
    let layer = format!("/v2/team/app/blobs/{}?ns=private.test", image.layers[0]);
    let (ann, eve) = (Some(clients[0]), Some(clients[1]));
    for registry in ["file.test", "env.test"] {
        assert_eq!(ask(&manifest(registry), None)?, 200);
    }
    assert_eq!(ask(&manifest("private.test"), None)?, 401);
    assert_eq!(ask(&manifest("private.test"), eve)?, 403);
    assert_eq!(ask(&manifest("private.test"), ann)?, 200);
    // Secrets in the query of the place that a registry redirects to, and a registry that repeats what it was sent.
    let signed = format!("{}{{path}}?X-Amz-Signature=S3NT1NEL-signature", store.url());
    private.rules(vec![Rule::on(Kind::Blob).fault(Fault::Redirect { location: signed.clone(), code: 307 })]);
    store.rules(vec![Rule::on(Kind::Blob).times(8).fault(Fault::status(403))]);
    assert!(ask(&layer, ann)? >= 400);
    private.rules(vec![Rule::on(Kind::Blob).fault(Fault::RedirectLoop)]);
    assert!(ask(&layer, ann)? >= 400);
    let echo =
        format!("{{\"errors\":[{{\"code\":\"X\",\"message\":\"you sent {}\"}}]}}", basic(clients[0].0, clients[0].1));
    for code in [400, 403, 404, 500] {
        let fault =
            Fault::Status { code, headers: vec![("X-Echo".into(), "S3NT1NEL-echo".into())], body: echo.clone() };
        private.rules(vec![Rule::any().fault(fault)]);
        assert!(ask(&format!("/v2/team/app/manifests/tag{code}?ns=private.test"), ann)? >= 400);
    }
    let challenge = "Bearer realm=\"http://127.0.0.1:1/S3NT1NEL-realm?token=S3NT1NEL-query\"".to_owned();
    let fault = Fault::Status { code: 401, headers: vec![("WWW-Authenticate".into(), challenge)], body: String::new() };
    private.rules(vec![Rule::any().fault(fault)]);
    assert!(ask("/v2/team/app/manifests/elsewhere?ns=private.test", ann)? >= 400);
    // What somebody writes into the wrong place.
    for target in ["/v2/team/app/manifests/1?ns=private.test&token=S3NT1NEL-query", "/v2/?password=S3NT1NEL-query"] {
        ask(target, ann)?;
    }

    let sent = [&private, &by_file, &by_env, &store].map(|up| up.log()).concat();
    let tokens: BTreeSet<String> = sent
        .iter()
        .filter_map(|request| request.header("authorization")?.strip_prefix("Bearer ").map(str::to_owned))
        .collect();
    assert!(!tokens.is_empty(), "tokens were used");
    let forms = forms(&[clients, own].concat(), &tokens);
    let log = larder.log();
    assert!(log.contains("DEBUG"), "with everything in the log");
    let metrics = larder.admin("/metrics")?.text();
    let mut places = vec![("the log".to_owned(), log.into_bytes()), ("the metrics".to_owned(), metrics.into_bytes())];
    places.extend(answers.into_iter().map(|answer| (format!("an answer: {answer}"), answer.into_bytes())));
    places.extend(written(larder.store()));
    for (place, text) in &places {
        for form in &forms {
            assert!(!contains(text, form) && !place.contains(form.as_str()), "{form} is in {place}");
        }
    }
    Ok(())
}

// S-28
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_nobody_elses_to_read_or_to_replace() -> anyhow::Result<()> {
    let up = Upstream::start().await?;
    let image = up.image("team/app", "1", &[200_000], 1);
    let larder =
        Larder::in_front_of("up.test", &up).wrapped(&["sh", "-c", "umask 000 && exec \"$0\" \"$@\""]).start()?;
    let layer = format!("/v2/team/app/blobs/{}?ns=up.test", image.layers[0]);
    larder.get("/v2/team/app/manifests/1?ns=up.test")?;
    larder.get(&layer)?;
    let kept = || larder.metric("larder_fills_running", &[]) == 0.0;
    wait_for("the layer is kept", kept);
    for (path, _) in written(larder.store()).into_iter().chain([(larder.store().display().to_string(), Vec::new())]) {
        let meta = fs::symlink_metadata(&path)?;
        let others = meta.permissions().mode() & 0o077;
        assert_eq!(others, 0, "{path} is open to others");
    }

    // A link or another name in a blob's place is not followed.
    let digest = image.layers[0].trim_start_matches("sha256:");
    let path = larder.store().join("blobs/sha256").join(digest);
    let elsewhere = tempfile::tempdir()?;
    let target = elsewhere.path().join("target");
    for link in [true, false] {
        wait_for("the layer is kept", || kept() && path.is_file());
        let larder_sees = fs::read(&path)?;
        fs::write(&target, vec![b'x'; larder_sees.len()])?;
        fs::remove_file(&path)?;
        if link {
            symlink(&target, &path)?;
        } else {
            fs::hard_link(&target, &path).or_else(|_| fs::copy(&target, &path).map(drop))?;
        }
        let answer = larder.get(&layer)?;
        assert_eq!((answer.status, answer.digest()), (200, image.layers[0].clone()), "link {link}");
        assert_eq!(fs::read(&target)?, vec![b'x'; larder_sees.len()], "what the link leads to is left alone");
    }
    Ok(())
}
