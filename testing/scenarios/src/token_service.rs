use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SigningKey};
use serde_json::json;

/// Seconds that a token is good for.
const LIFETIME: u64 = 300;

/// Gives out the signed tokens that the distribution registry believes (its "token" authentication): to the one user for
/// everything that is asked for, to everybody else for pulls of what is public.
pub(crate) struct TokenService {
    address: SocketAddr,
    certificate: String,
    issued: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Issuer {
    key: KeyPair,
    /// The certificate in DER, as `x5c` carries it.
    certificate: Vec<u8>,
    credential: String,
    public: &'static str,
}

impl TokenService {
    pub(crate) const ISSUER: &'static str = "tokens.test";
    pub(crate) const SERVICE: &'static str = "registry.test";

    /// Starts it for one user. Repositories that begin with `public` are for everybody to pull.
    pub(crate) fn start(user: &str, password: &str, public: &'static str) -> anyhow::Result<TokenService> {
        // RS256: the one algorithm that both generations of the registry take and whose signature is in no envelope.
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).context("making a key for tokens")?;
        let certificate = CertificateParams::new(vec![TokenService::ISSUER.to_owned()])?.self_signed(&key)?;
        let credential = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let pem = certificate.pem();
        let issuer = Issuer { key, certificate: certificate.der().to_vec(), credential, public };
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let (issued, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (issued.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                // One at a time: a client that sends nothing holds up the others only this long.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                if issuer.answer(stream).is_ok_and(|granted| granted) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Ok(TokenService { address, certificate: pem, issued, ended, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a registry must trust.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Tokens given out so far.
    pub(crate) fn issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread, which waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Issuer {
    /// Answers one request; whether a token was given.
    fn answer(&self, stream: TcpStream) -> anyhow::Result<bool> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut authorization = None;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                    authorization = Some(value.trim().to_owned());
                }
                Some(_) => {}
                None => break,
            }
        }
        let (status, body) = match (first.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()), authorization) {
            // Clients that try OAuth first go on with GET.
            (None, _) => ("405 Method Not Allowed", json!({})),
            (Some(_), Some(given)) if given != self.credential => ("401 Unauthorized", json!({})),
            (Some(target), given) => {
                let token = self.token(target, given.is_some())?;
                ("200 OK", json!({ "token": token, "access_token": token, "expires_in": LIFETIME }))
            }
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        write!(reader.get_mut(), "{head}Connection: close\r\n\r\n{body}")?;
        Ok(status.starts_with("200"))
    }

    fn token(&self, target: &str, known: bool) -> anyhow::Result<String> {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let mut access = Vec::new();
        for scope in query.split('&').filter_map(|pair| pair.strip_prefix("scope=")) {
            for scope in
                scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace("%20", "+").split('+')
            {
                let Some((name, actions)) = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'))
                else {
                    continue;
                };
                let granted = |action: &&str| known || (*action == "pull" && name.starts_with(self.public));
                let actions: Vec<_> = actions.split(',').filter(granted).collect();
                access.push(json!({ "type": "repository", "name": name, "actions": actions }));
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(&self.certificate)] });
        let claims = json!({
            "iss": TokenService::ISSUER, "aud": TokenService::SERVICE, "sub": if known { "user" } else { "" },
            "iat": now, "nbf": now - 5, "exp": now + LIFETIME, "jti": now.to_string(), "access": access,
        });
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
