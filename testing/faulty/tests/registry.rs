//! Without faults it is a correct registry.

mod client;

use client::{DEADLINE, get, request};
use faulty::{Auth, Kind, Rule, Source, TokenSettings, Upstream};

async fn up() -> Upstream {
    Upstream::start().await.expect("a free port")
}

#[tokio::test]
async fn an_image_is_complete() {
    let up = up().await;
    let image = up.image("team/app", "v1", &[5000, 100], 3);
    let manifest = get(up.addr(), "/v2/team/app/manifests/v1");
    assert_eq!(manifest.header("docker-content-digest"), image.digest);
    assert_eq!(Source::bytes(manifest.body.clone()).sha256(), image.digest);
    let parsed = manifest.json();
    let descriptors = parsed["layers"].as_array().unwrap().iter().chain([&parsed["config"]]);
    for descriptor in descriptors {
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = get(up.addr(), &format!("/v2/team/app/blobs/{digest}"));
        assert_eq!(Source::bytes(blob.body.clone()).sha256(), digest);
        assert_eq!(descriptor["size"], blob.body.len());
        assert_eq!(up.blob_gets(digest), 1);
        assert_eq!(up.bytes_sent(digest), blob.body.len() as u64);
    }
    let by512 = Source::bytes(image.bytes.clone()).sha512();
    let answer = get(up.addr(), &format!("/v2/team/app/manifests/{by512}"));
    assert_eq!(answer.header("docker-content-digest"), by512);
    assert_eq!(answer.body, image.bytes);
    let conditional = format!("If-None-Match: \"{}\"", image.digest);
    assert_eq!(request(up.addr(), "GET", "/v2/team/app/manifests/v1", &[&conditional]).status, 304);
    assert_eq!((up.count("GET", Kind::Manifest), up.count("GET", Kind::Blob)), (3, 3));
    assert_eq!(request(up.addr(), "PUT", "/v2/team/app/manifests/v1", &[]).status, 405);
}

#[tokio::test]
async fn layers_are_archives() {
    let up = up().await;
    let image = up.image("a", "t", &[1 << 20], 3);
    let body = get(up.addr(), &format!("/v2/a/blobs/{}", image.layers[0])).body;
    let path = std::env::temp_dir().join(format!("faulty-layer-{}.tar", std::process::id()));
    std::fs::write(&path, body).unwrap();
    let listed = std::process::Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("data-"));
}

#[tokio::test]
async fn tags_move_and_go() {
    let up = up().await;
    let (one, two) = (up.image("a", "t", &[10], 1), up.image("a", "u", &[10], 2));
    up.move_tag("a", "t", &two.digest);
    assert_eq!(get(up.addr(), "/v2/a/manifests/t").header("docker-content-digest"), two.digest);
    assert!(up.delete("a", &one.digest) && !up.delete("a", "nothing"));
    let gone = get(up.addr(), &format!("/v2/a/manifests/{}", one.digest));
    assert_eq!((gone.status, gone.json()["errors"][0]["code"].as_str()), (404, Some("MANIFEST_UNKNOWN")));
    assert_eq!(get(up.addr(), "/v2/b/manifests/t").json()["errors"][0]["code"], "NAME_UNKNOWN");
    assert_eq!(get(up.addr(), "/v2/a/blobs/sha256:00").json()["errors"][0]["code"], "BLOB_UNKNOWN");
}

#[tokio::test]
async fn tags_come_in_pages() {
    let up = up().await;
    let image = up.image("a", "c", &[10], 1);
    ["a", "b", "d"].iter().for_each(|tag| up.move_tag("a", tag, &image.digest));
    let page = get(up.addr(), "/v2/a/tags/list?n=2&last=a");
    assert_eq!(page.json()["tags"], serde_json::json!(["b", "c"]));
    assert_eq!(page.header("link"), "</v2/a/tags/list?n=2&last=c>; rel=\"next\"");
    assert_eq!(get(up.addr(), "/v2/a/tags/list?n=2&last=b").headers("link").len(), 0);
    assert_eq!(get(up.addr(), "/v2/a/tags/list?n=0").json()["tags"], serde_json::json!([]));
    assert_eq!(get(up.addr(), "/v2/a/tags/list").json()["tags"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn indexes_and_referrers() {
    let up = up().await;
    let (amd, arm) = (up.image("a", None, &[10], 1), up.image("a", None, &[10], 2));
    let index = up.index("a", "multi", &[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    assert_eq!(get(up.addr(), "/v2/a/manifests/multi").json()["manifests"][1]["platform"]["architecture"], "arm64");
    let signature = up.artifact("a", "application/sig", &index, "signed");
    up.artifact("a", "application/sbom", &index, "parts");
    let path = format!("/v2/a/referrers/{}", index.digest);
    assert_eq!(get(up.addr(), &path).json()["manifests"].as_array().unwrap().len(), 2);
    let filtered = get(up.addr(), &format!("{path}?artifactType=application/sig"));
    assert_eq!(filtered.json()["manifests"][0]["digest"], signature.digest);
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
}

#[tokio::test]
async fn basic_lets_in_whom_it_should() {
    let up = up().await;
    up.image("team/a", "t", &[10], 1);
    up.image("open/b", "t", &[10], 1);
    up.auth(Auth::Basic);
    up.public("open/*");
    up.account("ann", "pw", &["team/*"]);
    up.account("bob", "pw", &[]);
    let status = |path: &str, user: &str| {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:pw"));
        request(up.addr(), "GET", path, &[&format!("Authorization: Basic {encoded}")]).status
    };
    let team = "/v2/team/a/manifests/t";
    let challenged = get(up.addr(), team);
    assert_eq!((challenged.status, challenged.header("www-authenticate")), (401, "Basic realm=\"faulty\""));
    assert_eq!(get(up.addr(), "/v2/open/b/manifests/t").status, 200);
    assert_eq!((status(team, "ann"), status(team, "bob"), status(team, "eve")), (200, 403, 401));
    up.deny_with("team/*", 404);
    assert_eq!(status(team, "bob"), 404);
    up.revoke("ann", "team/a");
    assert_eq!(status(team, "ann"), 404);
    up.repo_auth("team/a", Auth::None);
    assert_eq!(get(up.addr(), team).status, 200);
}

fn token(answer: &client::Answer) -> String {
    format!("Authorization: Bearer {}", answer.json()["token"].as_str().expect("a token"))
}

#[tokio::test]
async fn tokens_have_scopes_and_ends() {
    let up = up().await;
    up.image("team/a", "t", &[10], 1);
    up.image("open/b", "t", &[10], 1);
    up.auth(Auth::Bearer);
    up.public("open/*");
    up.account("ann", "pw", &["team/*"]);
    let (team, open) = ("/v2/team/a/manifests/t", "/v2/open/b/manifests/t");
    let challenge = format!("Bearer realm=\"{}/token\",service=\"faulty\",scope=\"repository:open/b:pull\"", up.url());
    assert_eq!(get(up.addr(), open).header("www-authenticate"), challenge);
    let anonymous = token(&get(up.addr(), "/token?service=faulty&scope=repository:open/b:pull"));
    assert_eq!(request(up.addr(), "GET", open, &[&anonymous]).status, 200);
    assert_eq!(request(up.addr(), "GET", team, &[&anonymous]).status, 401);
    let ann = "Authorization: Basic YW5uOnB3";
    let hers = token(&request(up.addr(), "GET", "/token?scope=repository:team/a:pull", &[ann]));
    assert_eq!(request(up.addr(), "GET", team, &[&hers]).status, 200);
    assert_eq!(request(up.addr(), "GET", open, &[&hers]).status, 401, "not in its scope");
    assert_eq!(request(up.addr(), "GET", "/token", &["Authorization: Basic YW5uOnh4"]).status, 401);
    up.expire_tokens();
    let expired = request(up.addr(), "GET", team, &[&hers]);
    assert!(expired.header("www-authenticate").ends_with("error=\"invalid_token\""));
    assert_eq!(up.token_fetches(), 3);
    up.tokens(TokenSettings { expires_in: None, prefix: "S3NT1NEL-".into(), lifetime_ms: 0, ..Default::default() });
    let answer = get(up.addr(), "/token?scope=repository:open/b:pull");
    assert!(answer.json()["expires_in"].is_null());
    assert!(token(&answer).contains("S3NT1NEL-"));
    assert_eq!(request(up.addr(), "GET", open, &[&token(&answer)]).status, 401, "good for 0 ms");
    up.tokens(TokenSettings { challenge: Some("Bearer realm=\"file:///etc/passwd\"".into()), ..Default::default() });
    assert_eq!(get(up.addr(), open).header("www-authenticate"), "Bearer realm=\"file:///etc/passwd\"");
}

#[tokio::test]
async fn a_token_service_on_another_host() {
    let (up, service) = (up().await, up().await);
    up.image("a", "t", &[10], 1);
    up.auth(Auth::Bearer);
    up.public("*");
    service.token_service_for(&up);
    assert!(get(up.addr(), "/v2/a/manifests/t").header("www-authenticate").contains(&service.url()));
    let token = token(&get(service.addr(), "/token?scope=repository:a:pull"));
    assert_eq!(request(up.addr(), "GET", "/v2/a/manifests/t", &[&token]).status, 200);
    up.rule(Rule::on(Kind::Manifest).before_auth().fault(faulty::Fault::status(500)));
    assert_eq!(get(up.addr(), "/v2/a/manifests/t").status, 500);
}

#[tokio::test]
async fn the_quota_counts_gets_only() {
    let up = up().await;
    up.image("a", "t", &[10], 1);
    up.docker_hub_limit(2);
    let path = "/v2/a/manifests/t";
    let left = |method| request(up.addr(), method, path, &[]).header("ratelimit-remaining").to_owned();
    assert_eq!(
        [left("HEAD"), left("GET"), left("HEAD"), left("GET")],
        ["2;w=21600", "1;w=21600", "1;w=21600", "0;w=21600"]
    );
    assert_eq!((get(up.addr(), path).status, request(up.addr(), "HEAD", path, &[]).status), (429, 200));
}

#[tokio::test]
async fn a_mirror_has_the_same_content() {
    let (up, mirror) = (up().await, up().await);
    mirror.mirror_of(&up);
    up.image("a", "t", &[10], 1);
    assert_eq!(get(mirror.addr(), "/v2/a/manifests/t").status, 200);
    assert_eq!((mirror.log().len(), up.log().len()), (1, 0));
}

#[tokio::test]
async fn it_can_be_driven_over_http() {
    use std::io::Write;
    let up = up().await;
    let setup = r#"{"images":[{"repo":"a","tag":"t","layers":[10]}],"rules":[{"kind":"tags","faults":["html"]}],
        "auth":"basic","accounts":[{"user":"u","password":"p","repos":["*"]}],"public":["a"]}"#;
    let mut stream = client::connect(up.addr());
    write!(
        stream,
        "POST /_faulty/setup HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{setup}",
        setup.len()
    )
    .unwrap();
    let answer = client::read(&mut stream, usize::MAX, DEADLINE);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let digest = answer.json()["images"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(get(up.addr(), "/v2/a/manifests/t").header("docker-content-digest"), digest);
    assert_eq!(get(up.addr(), "/v2/a/tags/list").header("content-type"), "text/html; charset=utf-8");
    let log = get(up.addr(), "/_faulty/log").json();
    assert_eq!((log.as_array().unwrap().len(), &log[1]["faults"][0]), (2, &"html".into()));
    assert_eq!(get(up.addr(), "/_faulty/stats").json()["requests"], 2);
    assert_eq!(request(up.addr(), "DELETE", "/_faulty/rules", &[]).status, 200);
    assert!(up.rules_in_force().is_empty());
}
