//! Control while running, for scripts: everything under `/_faulty/`. These requests are neither logged nor subject to rules.
//!
//! | request | what |
//! |---|---|
//! | `POST /_faulty/setup` | a [`Setup`] as JSON; what is absent stays as it is. Answers with the images put |
//! | `GET /_faulty/log`, `DELETE /_faulty/log` | all requests as a JSON array; forget them |
//! | `GET /_faulty/stats` | connections, token fetches, requests, body bytes |
//! | `GET /_faulty/rules`, `DELETE /_faulty/rules` | the rules in force; behave well |
//! | `POST /_faulty/open?gate=NAME`, `POST /_faulty/shut?gate=NAME` | gates of `hold` and `hold_headers` |
//! | `POST /_faulty/move?repo=R&tag=T&digest=D` | move a tag |
//! | `DELETE /_faulty/content?repo=R&reference=X` | remove a tag, manifest or blob |
//! | `POST /_faulty/revoke?user=U&repo=R`, `POST /_faulty/expire` | take access away; make all tokens invalid |

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::auth::{Auth, TokenSettings};
use crate::content::Image;
use crate::pace::Bucket;
use crate::reply::Reply;
use crate::request::Incoming;
use crate::rules::{Armed, Rule};
use crate::serve::{Quota, Shared};

/// Everything that can be set up at once, from a file or over HTTP. What is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// In place of the rules there are.
    pub rules: Option<Vec<Rule>>,
    /// Images to put.
    pub images: Vec<ImageSpec>,
    /// Generated blobs to put, for content without a manifest.
    pub blobs: Vec<BlobSpec>,
    /// How repositories are guarded.
    pub auth: Option<Auth>,
    /// Another way for single repositories or patterns.
    pub repo_auth: Vec<(String, Auth)>,
    /// Accounts to add.
    pub accounts: Vec<AccountSpec>,
    /// Patterns of repositories that need no account.
    pub public: Vec<String>,
    /// Patterns, with the status for those who may not read them.
    pub deny_with: Vec<(String, u16)>,
    /// What the token service hands out.
    pub tokens: Option<TokenSettings>,
    /// Body bytes per second over all answers.
    pub cap: Option<u64>,
    /// Manifest GETs before 429.
    pub docker_hub_limit: Option<u64>,
}

/// An image to put.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Repository.
    pub repo: String,
    /// Tag.
    pub tag: String,
    /// Sizes of the layers in bytes.
    pub layers: Vec<u64>,
    /// What the bytes follow from.
    #[serde(default)]
    pub seed: u64,
}

/// A generated blob to put.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobSpec {
    /// Repository.
    pub repo: String,
    /// Bytes.
    pub size: u64,
    /// What the bytes follow from.
    #[serde(default)]
    pub seed: u64,
}

/// An account to add.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSpec {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Patterns of repositories that it may read.
    pub repos: Vec<String>,
}

impl crate::Upstream {
    /// Sets up what is given; gives the images put, in order, and the digests of the blobs.
    pub fn setup(&self, setup: Setup) -> (Vec<Image>, Vec<String>) {
        apply(self.shared(), setup)
    }
}

fn apply(shared: &Shared, setup: Setup) -> (Vec<Image>, Vec<String>) {
    let images = setup.images.iter().map(|image| {
        shared.content(|content| content.put_image(&image.repo, Some(&image.tag), &image.layers, image.seed))
    });
    let images = images.collect();
    let blobs = setup.blobs.iter().map(|blob| {
        let source = crate::Source::generated(blob.size, blob.seed);
        let digest = source.sha256();
        shared.content(|content| content.put_blob(&blob.repo, &digest, source));
        digest
    });
    let blobs = blobs.collect();
    shared.accounts(|accounts| {
        if let Some(mode) = setup.auth {
            accounts.mode = mode;
        }
        accounts.repo_modes.extend(setup.repo_auth);
        for account in &setup.accounts {
            let repos: Vec<&str> = account.repos.iter().map(String::as_str).collect();
            accounts.put(&account.user, &account.password, &repos);
        }
        setup.public.iter().for_each(|pattern| accounts.set_public(pattern, true));
        setup.deny_with.iter().for_each(|(pattern, status)| accounts.deny_with(pattern, *status));
        if let Some(tokens) = setup.tokens {
            accounts.settings = tokens;
        }
    });
    if let Some(rules) = setup.rules {
        *shared.rules.write().expect("no panic while held") = rules.into_iter().map(Armed::new).collect();
    }
    if let Some(rate) = setup.cap {
        *shared.cap.write().expect("no panic while held") = (rate > 0).then(|| Bucket::new(rate));
    }
    if let Some(limit) = setup.docker_hub_limit {
        *shared.quota.lock().expect("no panic while held") = Some(Quota { limit, used: 0 });
    }
    (images, blobs)
}

/// Answers a control request.
pub(crate) fn answer(shared: &Shared, incoming: &Incoming) -> Reply {
    let param = |name: &str| incoming.param(name).unwrap_or_default();
    let done = || Reply::json(200, &json!({}));
    match (incoming.method.as_str(), &incoming.path["/_faulty/".len()..]) {
        ("POST", "setup") => match serde_json::from_slice(&incoming.body) {
            Ok(setup) => {
                let (images, blobs) = apply(shared, setup);
                Reply::json(200, &json!({ "images": images, "blobs": blobs }))
            }
            Err(error) => Reply::error(400, &error.to_string()),
        },
        ("GET", "log") => Reply::json(200, &json!(shared.log.all())),
        ("DELETE", "log") => {
            shared.log.clear();
            done()
        }
        ("GET", "stats") => {
            let log = shared.log.all();
            Reply::json(
                200,
                &json!({
                    "connections": shared.log.connections(),
                    "token_fetches": shared.accounts(|accounts| accounts.fetches),
                    "requests": log.len(),
                    "bytes": log.iter().map(|request| request.bytes).sum::<u64>(),
                }),
            )
        }
        ("GET", "rules") => {
            let rules = shared.rules.read().expect("no panic while held");
            Reply::json(200, &json!(rules.iter().map(|armed| armed.rule()).collect::<Vec<_>>()))
        }
        ("DELETE", "rules") => {
            shared.rules.write().expect("no panic while held").clear();
            done()
        }
        ("POST", "open") => {
            shared.gates.set(&param("gate"), true);
            done()
        }
        ("POST", "shut") => {
            shared.gates.set(&param("gate"), false);
            done()
        }
        ("POST", "move") => {
            shared.content(|content| content.move_tag(&param("repo"), &param("tag"), &param("digest")));
            done()
        }
        ("DELETE", "content") => match shared.content(|content| content.delete(&param("repo"), &param("reference"))) {
            true => done(),
            false => Reply::error(404, "nothing of that name"),
        },
        ("POST", "revoke") => {
            shared.accounts(|accounts| accounts.revoke(&param("user"), &param("repo")));
            done()
        }
        ("POST", "expire") => {
            shared.accounts(|accounts| accounts.expire_tokens());
            done()
        }
        _ => Reply::error(404, "no such control; see the documentation of the module control"),
    }
}
