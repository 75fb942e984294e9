//! Where larder connects to, and what it takes there: only to what is public or named by an upstream, and credentials to the
//! upstream's own servers only.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use faulty::{Auth, Ca, Fault, Kind, OCI_MANIFEST, Rule, Tls, TokenSettings, Upstream};
use scenarios::{Answer, Larder, basic, wait_for};

/// Listens where nobody may connect to, and counts who does.
struct Trap {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Trap {
    fn set() -> anyhow::Result<Trap> {
        Trap::at((std::net::Ipv4Addr::LOCALHOST, 0).into())
    }

    fn at(address: SocketAddr) -> anyhow::Result<Trap> {
        let listener = TcpListener::bind(address)?;
        let trap = Trap { address: listener.local_addr()?, count: Arc::default() };
        let count = trap.count.clone();
        // Ends with the test's process, holding nothing but its socket.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                drop(connection);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(trap)
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections came in before this.
    fn caught(&self) -> anyhow::Result<usize> {
        let before = self.count.load(Ordering::SeqCst);
        // The queue of a listener keeps its order: once one more was counted, so were all that came before it.
        TcpStream::connect(self.address)?;
        wait_for("the trap to count", || self.count.load(Ordering::SeqCst) > before);
        Ok(self.count.swap(0, Ordering::SeqCst) - 1)
    }
}

/// Has larder see other hosts: each line of `/etc/hosts`. Its mount namespace ends with it.
fn with_hosts(lines: &str, dir: &tempfile::TempDir) -> anyhow::Result<Vec<String>> {
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n{lines}"))?;
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    Ok(["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec())
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Keeps a certificate where a configuration can name it.
fn pem(dir: &tempfile::TempDir, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = dir.path().join(name);
    std::fs::File::create(&path)?.write_all(text.as_bytes())?;
    Ok(path)
}

#[track_caller]
fn assert_code(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
}

// S-07
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_name_leads_to_no_address_of_this_network() -> anyhow::Result<()> {
    let (four, six) = (Trap::set()?, Trap::at((Ipv6Addr::LOCALHOST, 0).into())?);
    let up = Upstream::start().await?;
    up.image("a", "1", &[1000], 1);
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let (v4, v6) = (four.port(), six.port());
    let mut names = vec![
        "127.0.0.1:6443".to_owned(),
        "169.254.169.254".to_owned(),
        "169.254.169.254:80".to_owned(),
        "10.0.0.1".to_owned(),
        "172.16.0.1:5000".to_owned(),
        "192.168.1.1".to_owned(),
        "100.64.0.1".to_owned(),
        "224.0.0.1".to_owned(),
        "255.255.255.255".to_owned(),
        "[fe80::1]".to_owned(),
        "[fd00::1]:5000".to_owned(),
        "[::ffff:169.254.169.254]".to_owned(),
        "[64:ff9b::a00:1]:443".to_owned(),
    ];
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f.0.0.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.000.000.001",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST",
        "a.localhost",
        "localhost.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "evil.com@127.0.0.1",
        "user:password@127.0.0.1",
        "127.0.0.1%23",
        "127.0.0.1%2f",
        "127.0.0.1/..",
        "127。0。0。1",
        "１２７.0.0.1",
        "ⓛocalhost",
        "bücher.example",
    ] {
        names.push(format!("{host}:{v4}"));
    }
    names.extend(["[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::1%25lo]", "::1"].map(|host| format!("{host}:{v6}")));
    names.extend([
        format!("up.test@127.0.0.1:{v4}"),
        format!("up.test%23127.0.0.1:{v4}"),
        format!("up.test%00127.0.0.1:{v4}"),
        format!("up.test%0d%0aHost:127.0.0.1:{v4}"),
        format!("127.0.0.1:{v4}:443"),
        format!("127.0.0.1:+{v4}"),
        format!("127.0.0.1:0{v4}"),
        format!("127.0.0.1:{}", u64::from(v4) + 65536),
        format!("http://127.0.0.1:{v4}"),
        format!("//127.0.0.1:{v4}"),
        format!("up.test&ns=127.0.0.1:{v4}"),
        format!("127.0.0.1:{v4}&ns=up.test"),
        format!("up.test&%6es=127.0.0.1:{v4}"),
        "a".repeat(300),
        format!("{}.test", "a".repeat(64)),
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "-".to_owned(),
    ]);
    for name in &names {
        // As a client sends it: bytes beyond ASCII are encoded, all else stands as it is.
        let sent: String = name.chars().map(|c| if c.is_ascii() { c.to_string() } else { encoded(c) }).collect();
        for target in [format!("/v2/a/manifests/1?ns={sent}"), format!("/v2/a/tags/list?ns={sent}")] {
            let answer = larder.get(&target)?;
            assert!(matches!(answer.status, 400 | 404), "{name}: {} {}", answer.status, answer.text());
        }
        let in_path = sent.replace(':', "__");
        for registry in [&sent, &in_path] {
            if registry.is_empty() || registry.contains(['/', '&']) {
                continue;
            }
            let answer = larder.get(&format!("/v2/{registry}/a/manifests/1"))?;
            // What is no registry at all may be a repository of the registry for names that have none.
            assert!(answer.status >= 400, "{registry}: {} {}", answer.status, answer.text());
        }
    }
    assert_eq!((four.caught()?, six.caught()?), (0, 0));
    assert_eq!(up.connections(), 0, "nothing of this is the upstream");
    assert_code(&larder.get("/v2/a/manifests/1?ns=up.test")?, 200, "the upstream itself");
    Ok(())
}

fn encoded(c: char) -> String {
    c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect()
}

// S-07
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_upstreams_are_asked_where_that_is_the_rule() -> anyhow::Result<()> {
    let trap = Trap::set()?;
    let up = Upstream::start().await?;
    up.image("a", "1", &[1000], 1);
    let dir = tempfile::tempdir()?;
    let hosts = with_hosts("127.0.0.1 up.test.evil.example evil.example evilup.test sub.up.test\n", &dir)?;
    let larder = Larder::in_front_of("up.test", &up).config("unlisted = false").wrapped(&words(&hosts)).start()?;
    let port = trap.port();
    for name in [
        format!("evil.example:{port}"),
        format!("up.test.evil.example:{port}"),
        format!("evilup.test:{port}"),
        format!("sub.up.test:{port}"),
        format!("up.test:{port}"),
        "docker.io".to_owned(),
        "ghcr.io".to_owned(),
    ] {
        assert_code(&larder.get(&format!("/v2/a/manifests/1?ns={name}"))?, 404, &name);
        assert_code(&larder.get(&format!("/v2/{}/a/manifests/1", name.replace(':', "__")))?, 404, &name);
    }
    assert_eq!(trap.caught()?, 0);
    assert_eq!(up.connections(), 0);
    assert_code(&larder.get("/v2/a/manifests/1?ns=UP.test")?, 200, "the upstream itself");
    Ok(())
}

// S-08
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_to_this_network_is_refused_unless_an_upstream_names_it() -> anyhow::Result<()> {
    let (four, six) = (Trap::set()?, Trap::at((Ipv6Addr::LOCALHOST, 0).into())?);
    let up = Upstream::start().await?;
    up.image("a", "1", &[1000], 1);
    let dir = tempfile::tempdir()?;
    let lines = "127.0.0.1 four.example both.example up.example\n::1 six.example both.example\n\
                 ::ffff:127.0.0.1 mapped.example\n10.1.2.3 private.example\n169.254.169.254 metadata.example\n";
    let hosts = with_hosts(lines, &dir)?;
    let endpoint = format!("http://up.example:{}", up.addr().port());
    let larder = Larder::builder().upstream("named.example", &[&endpoint], "").wrapped(&words(&hosts)).start()?;
    for name in [
        format!("four.example:{}", four.port()),
        format!("mapped.example:{}", four.port()),
        format!("both.example:{}", four.port()),
        format!("both.example:{}", six.port()),
        format!("six.example:{}", six.port()),
        // The host is an upstream's endpoint, but not at this port.
        format!("up.example:{}", four.port()),
        "private.example".to_owned(),
        "metadata.example:80".to_owned(),
    ] {
        let answer = larder.get(&format!("/v2/a/manifests/1?ns={name}"))?;
        assert_code(&answer, 404, &name);
        assert_eq!(answer.error_code().as_deref(), Some("NAME_UNKNOWN"), "{name}");
    }
    assert_eq!((four.caught()?, six.caught()?), (0, 0));
    assert_code(&larder.get("/v2/a/manifests/1?ns=named.example")?, 200, "an upstream names it");
    Ok(())
}

// S-09
#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_no_token_service_that_is_not_the_registrys_own() -> anyhow::Result<()> {
    let trap = Trap::set()?;
    let up = Upstream::start().await?;
    up.image("a", "1", &[1000], 1);
    up.auth(Auth::Bearer);
    up.account("alice", "secret", &["a"]);
    let dir = tempfile::tempdir()?;
    let hosts = with_hosts("127.0.0.1 evil.example\n169.254.169.254 metadata.example\n", &dir)?;
    let larder =
        Larder::in_front_of("up.test", &up).config("[limits]\nrefusals = 1000").wrapped(&words(&hosts)).start()?;
    let (own, other) = (up.host(), trap.address);
    let realms = [
        format!("http://{other}/token"),
        format!("https://{other}/token"),
        format!("http://127.0.0.2:{}/token", trap.port()),
        format!("http://localhost:{}/token", up.addr().port()),
        format!("http://[::1]:{}/token", trap.port()),
        format!("http://evil.example:{}/token", trap.port()),
        format!("https://evil.example:{}/token", trap.port()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://metadata.example/token".to_owned(),
        format!("http://user@{own}/token"),
        format!("http://user:password@{own}/token"),
        format!("http://{own}@{other}/token"),
        format!("http://{own}#@{other}/token").replace(&format!("http://{own}#"), "http://x:y"),
        "file:///etc/passwd".to_owned(),
        "ftp://127.0.0.1/token".to_owned(),
        "gopher://127.0.0.1/token".to_owned(),
        "javascript:alert(1)".to_owned(),
        "/token".to_owned(),
        "token".to_owned(),
        String::new(),
        format!("http://{}", "a".repeat(300)),
    ];
    let alice = basic("alice", "secret");
    for (n, realm) in realms.iter().enumerate() {
        // What failed is not asked again for a while: each time another tag.
        let target = format!("/v2/a/manifests/case-{n}?ns=up.test");
        up.tokens(TokenSettings { realm: Some(realm.clone()), ..TokenSettings::default() });
        for headers in [&[][..], &[("Authorization", alice.as_str())]] {
            up.clear_log();
            assert_code(&larder.ask("GET", &target, headers)?, 502, realm);
            assert_eq!(up.log().len(), 1, "{realm}: the registry was asked and its challenge read");
        }
    }
    for (n, challenge) in [
        format!("Bearer realm=\"http://{own}/token\",service=\"{}\"", "s".repeat(100_000)),
        format!("Bearer realm=\"http://{own}/{}\"", "t".repeat(20_000)),
        "Bearer ".repeat(2_000),
    ]
    .into_iter()
    .enumerate()
    {
        up.tokens(TokenSettings { challenge: Some(challenge), ..TokenSettings::default() });
        let target = format!("/v2/a/manifests/long-{n}?ns=up.test");
        assert_code(&larder.ask("GET", &target, &[("Authorization", &alice)])?, 502, "a giant challenge");
    }
    assert_eq!(trap.caught()?, 0);
    assert_eq!(up.token_fetches(), 0, "not even the registry's own was asked");
    assert!(up.log().iter().all(|request| request.authorization().is_none()), "no credential was sent at all");

    // A registry that named a bad place once is not shunned for it.
    up.tokens(TokenSettings::default());
    let answer = larder.ask("GET", "/v2/a/manifests/1?ns=up.test", &[("Authorization", &alice)])?;
    assert_code(&answer, 200, "the registry's own token service");
    Ok(())
}

// S-09
#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_elsewhere_is_used_where_the_upstream_lists_it() -> anyhow::Result<()> {
    let (up, tokens) = (Upstream::start().await?, Upstream::start().await?);
    up.image("a", "1", &[1000], 1);
    up.auth(Auth::Bearer);
    up.account("alice", "secret", &["a"]);
    tokens.token_service_for(&up);
    let alice = basic("alice", "secret");
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let answer = larder.ask("GET", "/v2/a/manifests/1?ns=up.test", &[("Authorization", &alice)])?;
    assert_code(&answer, 502, "not listed");
    assert_eq!(tokens.connections(), 0);
    let list = format!("token_hosts = [{:?}]", tokens.host());
    let larder = Larder::builder().upstream("up.test", &[&up.url()], &list).start()?;
    let answer = larder.ask("GET", "/v2/a/manifests/1?ns=up.test", &[("Authorization", &alice)])?;
    assert_code(&answer, 200, "listed");
    assert!(tokens.connections() > 0);
    // The token service sees the password, the registry only the token.
    assert!(up.log().iter().all(|request| request.authorization().is_none_or(|sent| sent.starts_with("Bearer "))));
    Ok(())
}

// S-10
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_no_credential_along() -> anyhow::Result<()> {
    for mode in [Auth::Basic, Auth::Bearer] {
        let (up, cdn) = (Upstream::start().await?, Upstream::start().await?);
        let image = up.image("a", "1", &[100_000], 1);
        cdn.mirror_of(&up);
        up.auth(mode);
        up.account("alice", "secret", &["a"]);
        up.rule(
            Rule::on(Kind::Blob)
                .fault(Fault::redirect(&format!("{}{{path}}?signature=x", cdn.url())))
                .fault(Fault::AddHeader("Set-Cookie".into(), "session=1; Domain=127.0.0.1".into())),
        );
        let list = format!("redirect_hosts = [{:?}]", cdn.host());
        let larder = Larder::builder().upstream("up.test", &[&up.url()], &list).start()?;
        let headers = [("Authorization", &*basic("alice", "secret")), ("Cookie", "mine=1")];
        let answer = larder.ask("GET", &format!("/v2/a/blobs/{}?ns=up.test", image.layers[0]), &headers)?;
        assert_code(&answer, 200, "redirected");
        assert_eq!(answer.digest(), image.layers[0]);
        assert!(cdn.count("GET", Kind::Blob) > 0);
        for request in cdn.log() {
            for name in ["authorization", "cookie", "proxy-authorization", "referer"] {
                assert_eq!(request.header(name), None, "{mode:?} {name} went along");
            }
        }
        for request in up.log() {
            assert_eq!(
                request.header("cookie"),
                None,
                "{mode:?}: cookies of clients and servers are nobody's business"
            );
        }
    }
    Ok(())
}

// S-10
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_does_not_come_back_after_a_detour() -> anyhow::Result<()> {
    let (up, detour) = (Upstream::start().await?, Upstream::start().await?);
    let image = up.image("a", "1", &[100_000], 1);
    up.auth(Auth::Basic);
    up.account("alice", "secret", &["a"]);
    let layer = &image.layers[0];
    up.rule(Rule::on(Kind::Blob).repo("a").fault(Fault::redirect(&format!("{}/v2/x/blobs/{layer}", detour.url()))));
    detour.rule(Rule::any().fault(Fault::redirect(&format!("{}/elsewhere", up.url()))));
    let list = format!("redirect_hosts = [{:?}]", detour.host());
    let larder = Larder::builder().upstream("up.test", &[&up.url()], &list).start()?;
    let headers = [("Authorization", &*basic("alice", "secret"))];
    let answer = larder.ask("GET", &format!("/v2/a/blobs/{layer}?ns=up.test"), &headers)?;
    assert!(answer.status >= 400, "{}", answer.status);
    let back: Vec<_> = up.log().into_iter().filter(|request| request.path == "/elsewhere").collect();
    assert!(!back.is_empty(), "the detour was followed");
    assert!(back.iter().all(|request| request.authorization().is_none()));
    Ok(())
}

// S-10, S-08
#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_astray_are_not_followed() -> anyhow::Result<()> {
    let (trap, open) = (Trap::set()?, Upstream::start().await?);
    let ca = Ca::generate()?;
    let up = Upstream::start_tls(Tls::trusted().signed_by(&ca)).await?;
    open.mirror_of(&up);
    let dir = tempfile::tempdir()?;
    let ca = pem(&dir, "ca.pem", &ca.pem())?;
    let hosts = with_hosts("127.0.0.1 evil.example\n", &dir)?;
    let config = format!(
        "[[upstream]]\nregistry = \"up.test\"\nredirect_hosts = [{:?}]\n[[upstream.endpoint]]\nurl = {:?}\nca = {ca:?}",
        open.host(),
        up.url(),
    );
    let larder = Larder::builder().config(&config).wrapped(&words(&hosts)).start()?;
    // What failed is not asked again for a while: each time another blob.
    let mut made = 0;
    let mut ask = || {
        made += 1;
        let digest = up.blob("a", vec![made; 100_000]);
        larder.get(&format!("/v2/a/blobs/{digest}?ns=up.test"))
    };
    for location in [
        // From https to http, even where the host is allowed.
        format!("{}{{path}}", open.url()),
        format!("http://{}{{path}}", up.host()),
        // This network, which no upstream names.
        format!("https://{}{{path}}", trap.address),
        format!("https://localhost:{}{{path}}", trap.port()),
        format!("https://[::ffff:127.0.0.1]:{}{{path}}", trap.port()),
        format!("https://2130706433:{}{{path}}", trap.port()),
        format!("https://evil.example:{}{{path}}", trap.port()),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        // No place for a blob at all.
        "file:///etc/passwd".to_owned(),
        format!("https://user:password@{}{{path}}", up.host()),
        format!("gopher://{}/", trap.address),
        "https://".to_owned(),
        String::new(),
    ] {
        up.clear_log();
        up.rules(vec![Rule::on(Kind::Blob).fault(Fault::redirect(&location))]);
        assert_code(&ask()?, 502, &location);
        assert_eq!(up.log().len(), 1, "{location}: the registry was asked");
    }
    assert_eq!(trap.caught()?, 0);
    assert_eq!(open.connections(), 0);
    for fault in [Fault::RedirectLoop, Fault::RedirectChain(11)] {
        up.rules(vec![Rule::on(Kind::Blob).fault(fault.clone())]);
        assert_code(&ask()?, 502, &fault.name());
    }
    up.rules(vec![Rule::on(Kind::Blob).fault(Fault::RedirectChain(10))]);
    assert_code(&ask()?, 200, "a chain that is short enough");
    Ok(())
}

// S-11
#[tokio::test(flavor = "multi_thread")]
async fn addresses_within_manifests_are_never_asked() -> anyhow::Result<()> {
    let trap = Trap::set()?;
    let up = Upstream::start().await?;
    let config = up.blob("a", "{}");
    let layer = oci::Digest::sha256(b"foreign").to_string();
    let url = format!("http://{}/layer", trap.address);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2, "urls": [url] },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": layer, "size": 7, "urls": [url],
        }],
        "subject": { "mediaType": OCI_MANIFEST, "digest": layer, "size": 7, "urls": [url] },
    });
    let bytes = manifest.to_string();
    let digest = up.manifest("a", "1", OCI_MANIFEST, bytes.clone());
    let larder = Larder::in_front_of("up.test", &up).start()?;
    let answer = larder.get("/v2/a/manifests/1?ns=up.test")?;
    assert_eq!((answer.status, answer.text()), (200, bytes), "passed on byte for byte");
    assert_code(&larder.get(&format!("/v2/a/blobs/{config}?ns=up.test"))?, 200, "the config");
    assert_code(&larder.get(&format!("/v2/a/blobs/{layer}?ns=up.test"))?, 404, "the foreign layer");
    assert_code(&larder.ask("HEAD", &format!("/v2/a/blobs/{layer}?ns=up.test"), &[])?, 404, "its HEAD");
    assert_code(&larder.get(&format!("/v2/a/referrers/{digest}?ns=up.test"))?, 200, "its referrers");
    assert_eq!(trap.caught()?, 0);
    Ok(())
}

// S-12
#[tokio::test(flavor = "multi_thread")]
async fn only_good_certificates_are_taken() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let ca = Ca::generate()?;
    let other = Ca::generate()?;
    let trusted = pem(&dir, "ca.pem", &ca.pem())?;
    let old = Upstream::start_tls(Tls::trusted().signed_by(&ca)).await?;
    old.rule(Rule::connections().fault(Fault::Tls10));
    for (what, up) in [
        ("self-signed", Upstream::start_tls(Tls::self_signed()).await?),
        ("signed by another authority", Upstream::start_tls(Tls::trusted().signed_by(&other)).await?),
        ("expired", Upstream::start_tls(Tls::expired().signed_by(&ca)).await?),
        ("for another name", Upstream::start_tls(Tls::wrong_name().signed_by(&ca)).await?),
        ("TLS 1.0", old),
        ("no TLS", Upstream::start().await?),
    ] {
        up.image("a", "1", &[1000], 1);
        let url = format!("https://{}", up.host());
        let config =
            format!("[[upstream]]\nregistry = \"up.test\"\n[[upstream.endpoint]]\nurl = {url:?}\nca = {trusted:?}");
        let config = format!("[deadlines]\nconnect = \"1s\"\n{config}");
        let larder = Larder::builder().config(&config).start()?;
        let headers = [("Authorization", &*basic("alice", "secret"))];
        let answer = larder.ask("GET", "/v2/a/manifests/1?ns=up.test", &headers)?;
        // A server that speaks no TLS may wait for ever for a request that it can read.
        assert!(matches!(answer.status, 502 | 504), "{what}: {} {}", answer.status, answer.text());
        assert!(up.connections() > 0, "{what}: it was tried");
        assert!(up.log().is_empty(), "{what}: nothing was said");
        // Whom an upstream trusts is nobody else's affair.
        let config = format!("{config}\n[[upstream]]\nregistry = \"else.test\"\nendpoints = [{url:?}]");
        let larder = Larder::builder().config(&config).start()?;
        let answer = larder.get("/v2/a/manifests/1?ns=else.test")?;
        assert!(matches!(answer.status, 502 | 504), "{what}: {} {}", answer.status, answer.text());
        assert!(up.log().is_empty(), "{what}");
    }
    let up = Upstream::start_tls(Tls::trusted().signed_by(&ca)).await?;
    up.image("a", "1", &[1000], 1);
    let config =
        format!("[[upstream]]\nregistry = \"up.test\"\n[[upstream.endpoint]]\nurl = {:?}\nca = {trusted:?}", up.url());
    let larder = Larder::builder().config(&config).start()?;
    assert_code(&larder.get("/v2/a/manifests/1?ns=up.test")?, 200, "a good one");
    Ok(())
}

// S-12
#[tokio::test(flavor = "multi_thread")]
async fn insecure_is_for_one_server_and_not_for_where_it_leads() -> anyhow::Result<()> {
    let up = Upstream::start_tls(Tls::self_signed()).await?;
    let cdn = Upstream::start_tls(Tls::self_signed()).await?;
    let tokens = Upstream::start_tls(Tls::self_signed()).await?;
    let image = up.image("a", "1", &[100_000], 1);
    cdn.mirror_of(&up);
    let config = format!(
        "[[upstream]]\nregistry = \"up.test\"\nredirect_hosts = [{:?}]\ntoken_hosts = [{:?}]\n\
         [[upstream.endpoint]]\nurl = {:?}\ninsecure = true\n\
         [[upstream]]\nregistry = \"other.test\"\nendpoints = [{:?}]\n",
        cdn.host(),
        tokens.host(),
        up.url(),
        cdn.url(),
    );
    let larder = Larder::builder().config(&config).start()?;
    assert_code(&larder.get("/v2/a/manifests/1?ns=up.test")?, 200, "the server itself");
    assert_code(&larder.get("/v2/a/manifests/1?ns=other.test")?, 502, "another upstream");
    up.rule(Rule::on(Kind::Blob).fault(Fault::redirect(&format!("{}{{path}}", cdn.url()))));
    assert_code(&larder.get(&format!("/v2/a/blobs/{}?ns=up.test", image.layers[0]))?, 502, "a redirect");
    assert!(cdn.connections() > 0 && cdn.log().is_empty());

    let private = up.image("private", "1", &[1000], 2);
    up.repo_auth("private", Auth::Bearer);
    up.account("alice", "secret", &["private"]);
    tokens.token_service_for(&up);
    let headers = [("Authorization", &*basic("alice", "secret"))];
    let target = format!("/v2/private/manifests/{}?ns=up.test", private.digest);
    assert_code(&larder.ask("GET", &target, &headers)?, 502, "a token service");
    assert!(tokens.connections() > 0 && tokens.log().is_empty());
    Ok(())
}
