//! What tests do to a cluster works, and shows.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use faulty::{Ending, Fault, Kind, Rule, Tls, Upstream};
use testbed::{
    ClusterSpec, Image, Layer, Machine, Node, NodeSpec, OriginSpec, Rate, Runtime, has_condition, wait_for,
    wait_until_ok, with_cluster,
};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn processes_are_killed_stopped_and_started_again() -> Result<()> {
    with_cluster(&ClusterSpec::new("processes"), |cluster| {
        cluster.origin("ghcr.io")?.push("acme/app:1", &Image::new())?;
        cluster.kubectl().apply(&pod("app", "ghcr.io/acme/app:1"))?;
        cluster.kubectl().await_ready_pods("default", "app=app", 1, PATIENCE)?;
        let node = &cluster.nodes()[0];

        let containerd = node.containerd()?;
        containerd.kill()?;
        assert!(!containerd.is_running());
        assert!(containerd.pid().is_err(), "what has ended has no id");
        assert!(has_process(node.machine(), "sleep 2147483647")?, "containers live on without containerd");
        containerd.start_again()?;
        node.await_containerd()?;
        assert!(node.crictl(&["ps"])?.contains("main"), "containerd finds its containers again");

        let kubelet = node.kubelet()?;
        kubelet.stop()?;
        assert!(kubelet.is_running(), "a stopped process still exists");
        wait_for("kubelet is stopped", PATIENCE, || Ok((state_of(kubelet.pid()?)? == 'T').then_some(())))?;
        kubelet.go_on()?;
        wait_for("kubelet goes on", PATIENCE, || Ok((state_of(kubelet.pid()?)? != 'T').then_some(())))?;
        kubelet.stop()?;
        kubelet.kill()?;
        kubelet.start_again()?;

        let api = cluster.control().machine().process("kube-apiserver")?;
        api.kill()?;
        assert!(cluster.kubectl().run(&["get", "nodes"]).is_err());
        api.start_again()?;
        wait_for("the API server is back", PATIENCE, || Ok(cluster.kubectl().run(&["get", "--raw", "/readyz"]).ok()))?;

        let origin = cluster.origin("ghcr.io")?;
        origin.process()?.kill()?;
        assert!(node.crictl(&["pull", "ghcr.io/acme/app:1"]).is_err());
        origin.process()?.start_again()?;
        wait_for("the origin is back", PATIENCE, || Ok(node.crictl(&["pull", "ghcr.io/acme/app:1"]).ok()))?;

        cluster.kubectl().run(&["delete", "pod", "app", "--grace-period=0", "--force"])?;
        wait_for("the pod has gone", PATIENCE, || {
            Ok((!has_process(node.machine(), "sleep 2147483647")?).then_some(()))
        })?;
        wait_for("nothing waits to be reaped", PATIENCE, || {
            let states = node.machine().run(&["ps", "-e", "-o", "stat="])?;
            Ok((!states.lines().any(|state| state.starts_with('Z'))).then_some(()))
        })
    })
}

#[test]
fn links_are_capped_cut_and_measured() -> Result<()> {
    with_cluster(&ClusterSpec::new("links").nodes(2), |cluster| {
        const SIZE: u64 = 4 << 20;
        cluster.origin("quay.io")?.push("acme/data:1", &Image::empty().layer(Layer::random(SIZE)))?;
        let [one, two] = cluster.nodes() else { panic!("two nodes were asked for") };

        let before = one.link().traffic()?;
        one.link().cap(Rate::mbit(16))?;
        let started = Instant::now();
        one.crictl(&["pull", "quay.io/acme/data:1"])?;
        // 4 MiB at 16 Mbit/s are 2.1 s, of which the bucket may save a part.
        assert!(started.elapsed() > Duration::from_millis(1500), "the cap does nothing: {:?}", started.elapsed());
        one.link().uncap()?;
        let received = one.link().traffic()?.received - before.received;
        assert!((SIZE..2 * SIZE).contains(&received), "{received} bytes for an image of {SIZE}");

        let narrow = cluster.narrow(&[one.machine()], &[two.machine()], Rate::mbit(16))?;
        for (from, to) in [(one, two), (two, one)] {
            let took = send(from, to, SIZE)?;
            assert!(took > Duration::from_millis(1500), "the path is as wide as before: {took:?}");
        }
        drop(narrow);
        send(one, two, SIZE)?;

        let origin = cluster.origin("quay.io")?.address();
        assert!(reaches(two, origin, 443));
        cluster.internet_link().cut()?;
        assert!(!reaches(two, origin, 443));
        cluster.internet_link().mend()?;
        await_reach(two, origin, 443)?;

        let (first, second) = (one.machine().address(), two.machine().address());
        assert!(reaches(one, second, 10250));
        one.cut_off(second)?;
        assert!(!reaches(one, second, 10250) && !reaches(two, first, 10250));
        assert!(reaches(one, origin, 443), "only that one path is broken");
        one.reconnect()?;
        await_reach(one, second, 10250)
    })
}

/// How long one node takes to send another so many bytes.
fn send(from: &Node, to: &Node, bytes: u64) -> Result<Duration> {
    let listener = to.machine().in_network(|| TcpListener::bind((to.machine().address(), 0)))??;
    let address = listener.local_addr()?;
    let taking = std::thread::spawn(move || std::io::copy(&mut listener.accept()?.0, &mut std::io::sink()));
    let started = Instant::now();
    let mut stream = from.machine().in_network(|| TcpStream::connect(address))??;
    stream.write_all(&vec![0; bytes.try_into()?])?;
    drop(stream);
    assert_eq!(taking.join().expect("it does not panic")?, bytes);
    Ok(started.elapsed())
}

#[test]
fn nodes_come_and_go_and_differ() -> Result<()> {
    with_cluster(&ClusterSpec::new("nodes"), |cluster| {
        const MIB: u64 = 1 << 20;
        cluster.origin("docker.io")?.push("library/app:1", &Image::new().layer(Layer::random(16 * MIB)))?;
        let old = NodeSpec::new("old")
            .zone("west")
            .label("disk", "small")
            .taint("acme.example/new", "NoSchedule")
            .runtime(Runtime::Containerd17)
            .disk(128 * MIB);
        cluster.add_node(&old)?;
        let object = cluster.kubectl().json(&["get", "node", "old"])?;
        assert_eq!(object["metadata"]["labels"]["topology.kubernetes.io/zone"], "west");
        assert_eq!(object["metadata"]["labels"]["disk"], "small");
        assert_eq!(object["spec"]["taints"][0]["key"], "acme.example/new");
        assert_eq!(object["status"]["nodeInfo"]["containerRuntimeVersion"], "containerd://1.7.35");

        let node = cluster.node("old")?;
        node.fill_disk(8 * MIB)?;
        let error = node.crictl(&["pull", "docker.io/library/app:1"]).unwrap_err();
        assert!(format!("{error:#}").contains("no space left"), "{error:#}");
        node.free_disk()?;
        node.crictl(&["pull", "docker.io/library/app:1"])?;

        cluster.remove_node("old")?;
        assert_eq!(cluster.kubectl().json(&["get", "nodes"])?["items"].as_array().map(Vec::len), Some(1));
        assert!(has_condition(&cluster.kubectl().json(&["get", "node", "node-1"])?, "Ready"));
        cluster.add_node(&NodeSpec::new("old"))?;
        Ok(())
    })
}

#[test]
fn pods_find_the_api_server_each_other_and_origins() -> Result<()> {
    let spec = ClusterSpec::new("services")
        .with_nodes([NodeSpec::new("node-1"), NodeSpec::new("node-2").runtime(Runtime::Containerd17)]);
    with_cluster(&spec, |cluster| {
        let image = Image::new().layer(Layer::file("www/index.html", 0o644, "found it")).command([
            "/bin/busybox",
            "httpd",
            "-f",
            "-p",
            "8080",
            "-h",
            "/www",
        ]);
        cluster.origin("docker.io")?.push("library/web:1", &image)?;
        cluster.kubectl().apply(WEB)?;
        cluster.kubectl().await_ready_pods("default", "app=web", 2, PATIENCE)?;
        let pods = cluster.kubectl().json(&["get", "pods", "-l", "app=web"])?;
        let text = |at: usize, pointer: &str| {
            pods["items"][at].pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned)
        };
        let names = [0, 1].map(|at| text(at, "/metadata/name").unwrap_or_default());
        let addresses = [0, 1].map(|at| text(at, "/status/podIP").unwrap_or_default());
        let inside =
            |at: usize, command: &str| cluster.kubectl().run(&["exec", &names[at], "--", "/bin/sh", "-c", command]);

        for from in [0, 1] {
            for address in &addresses {
                assert_eq!(inside(from, &format!("wget -q -O - http://{address}:8080"))?, "found it");
            }
            wait_until_ok("the service answers by its name", Duration::from_secs(15), || {
                inside(from, "wget -q -O - http://web.default.svc.cluster.local:80")
            })?;
            // The server's answer to a client without TLS is enough to know it by.
            let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT";
            assert!(inside(from, ask)?.contains("HTTPS server"));
            let ghcr = cluster.origin("ghcr.io")?.address().to_string();
            assert_eq!(inside(from, &address_of("ghcr.io"))?.trim(), ghcr);
            assert!(inside(from, &format!("nc {ghcr} 443 </dev/null")).is_ok());
            assert_eq!(inside(from, &address_of("registry.example"))?, "", "no such origin");
        }
        let host_reaches = TcpStream::connect((addresses[0].as_str(), 8080));
        assert!(host_reaches.is_ok(), "tests reach pods too: {host_reaches:?}");

        wait_for("the headless service has a slice with both pods", PATIENCE, || {
            let label = "kubernetes.io/service-name=headless";
            let slices = cluster.kubectl().json(&["get", "endpointslices", "-l", label])?;
            let endpoints = slices["items"][0]["endpoints"].as_array().map(Vec::len);
            Ok((endpoints == Some(2)).then_some(()))
        })
    })
}

#[test]
fn a_pod_can_set_a_mirror_for_its_node() -> Result<()> {
    with_cluster(&ClusterSpec::new("mirror"), |cluster| {
        // A program that is linked with libraries, as larder is.
        let image = Image::new().layer(Layer::program(Path::new("/usr/bin/id"), "/usr/bin/id")?);
        cluster.origin("quay.io")?.push("acme/agent:1", &image)?;
        cluster.kubectl().apply(AGENT)?;
        cluster.kubectl().await_ready_pods("default", "app=agent", 1, PATIENCE)?;
        let node = &cluster.nodes()[0];
        let mirror = node.machine().in_network(|| Upstream::open(SocketAddr::from(([127, 0, 0, 1], 7439)), None))??;
        mirror.image("acme/app", "1", &[1 << 20], 1);

        node.crictl(&["pull", "ghcr.io/acme/app:1"])?;
        assert!(mirror.log().iter().any(|request| request.query.contains("ns=ghcr.io")));
        assert_eq!(cluster.origin("ghcr.io")?.requests()?, [], "the origin has not been asked");
        Ok(())
    })
}

/// It writes the file by which containerd finds the mirror, through the same paths as on any other node, and sees its socket.
const AGENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: agent, labels: {app: agent}}
spec:
  hostNetwork: true
  containers:
  - name: main
    image: quay.io/acme/agent:1
    command: [/bin/sh, -euc]
    args:
    - |
      /usr/bin/id
      busybox test -S /run/containerd/containerd.sock
      busybox mkdir -p /certs.d/_default
      printf '[host."http://127.0.0.1:7439"]\ncapabilities = ["pull", "resolve"]\n' > /certs.d/_default/hosts.toml
      busybox touch /ready
      sleep 1000000
    readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1}
    volumeMounts:
    - {name: certs, mountPath: /certs.d}
    - {name: run, mountPath: /run/containerd}
  volumes:
  - {name: certs, hostPath: {path: /etc/containerd/certs.d}}
  - {name: run, hostPath: {path: /run/containerd}}
"#;

/// A command that prints the address of a name.
fn address_of(name: &str) -> String {
    format!("nslookup {name} | awk '/^Address: /{{print $2}}'")
}

const WEB: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: main, image: 'docker.io/library/web:1'}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}
";

#[test]
fn an_origin_can_be_served_by_the_test() -> Result<()> {
    let spec = ClusterSpec::new("served").origin(OriginSpec::served_by_test("faulty.example"));
    with_cluster(&spec, |cluster| {
        let origin = cluster.origin("faulty.example")?;
        let (certificate, key) = origin.certificate();
        let tls = Tls::given(&fs::read_to_string(certificate)?, &fs::read_to_string(key)?);
        let address = SocketAddr::from((origin.address(), 443));
        let upstream = cluster.internet().in_network(|| Upstream::open(address, Some(tls)))??;
        let image = upstream.image("acme/app", "1", &[1 << 20], 1);
        upstream.rule(
            Rule::on(Kind::Blob).get().reference(&image.layers[0]).times(1).fault(Fault::cut_half(Ending::Reset)),
        );

        let node = &cluster.nodes()[0];
        assert!(node.crictl(&["pull", "faulty.example/acme/app:1"]).is_err(), "containerd gives up on a reset");
        node.crictl(&["pull", "faulty.example/acme/app:1"])?;
        assert_eq!(upstream.blob_gets(&image.layers[0]), 2);
        Ok(())
    })
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  containers: [{{name: main, image: '{image}'}}]
"
    )
}

fn has_process(machine: &Machine, part: &str) -> Result<bool> {
    Ok(machine
        .run(&["ps", "-e", "-o", "args="])?
        .lines()
        .any(|line| line.starts_with("/bin/busybox") && line.contains(part)))
}

fn state_of(pid: i32) -> Result<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?'))
}

fn reaches(node: &Node, address: Ipv4Addr, port: u16) -> bool {
    node.machine().run(&["timeout", "2", "bash", "-c", &format!("exec 3<>/dev/tcp/{address}/{port}")]).is_ok()
}

fn await_reach(node: &Node, address: Ipv4Addr, port: u16) -> Result<()> {
    wait_for("the path works again", PATIENCE, || Ok(reaches(node, address, port).then_some(())))
}
