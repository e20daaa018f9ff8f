//! The leader's key in the KV bucket: who tries first to lead. The logs say who is right.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv::{Store, UpdateErrorKind};
use portcullis_schemas::Prefix;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connection::Broker;
use crate::stored;

const KEY: &str = "leader";
/// The leader writes its key this often.
pub const RENEW: Duration = Duration::from_millis(500);
/// A key that is older is nobody's.
const STALE: Duration = Duration::from_millis(1_500);

/// The bucket's stream, and the subject of the key in it.
pub(crate) fn place(prefix: &Prefix) -> (String, String) {
    let name = prefix.bucket();
    (format!("KV_{name}"), format!("$KV.{name}.{KEY}"))
}

#[derive(Clone)]
pub struct LeaderKey {
    broker: Broker,
    bucket: Store,
    stream: String,
    subject: String,
    who: String,
    /// The last revision that was seen, and when it was new; 0 where there was none.
    seen: Option<(u64, Instant)>,
    /// The revision by which this process claimed it.
    claimed: Option<u64>,
    /// The broker did not answer lately: neither could the leader write, so that the age of its key says nothing.
    is_old_news: bool,
    /// Held while the key is written; true once it was given up.
    writing: Arc<Mutex<bool>>,
}

impl LeaderKey {
    /// `who` names this process.
    ///
    /// # Errors
    ///
    /// Where the bucket cannot be opened.
    pub async fn open(broker: &Broker, prefix: &Prefix, who: String) -> anyhow::Result<Self> {
        let name = prefix.bucket();
        let bucket = broker.context.get_key_value(&name).await.with_context(|| format!("KV bucket {name}"))?;
        let (stream, subject) = place(prefix);
        Ok(Self {
            broker: broker.clone(),
            bucket,
            stream,
            subject,
            who,
            seen: None,
            claimed: None,
            is_old_news: false,
            writing: Arc::default(),
        })
    }

    /// When nobody holds the key any more, unless it is renewed: zero where that is so now. It is not there, or was not renewed for a while by the
    /// broker's clock or by this machine's.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer.
    pub async fn free_in(&mut self) -> anyhow::Result<Duration> {
        let asked = async {
            tokio::try_join!(stored::last(&self.broker, &self.stream, &self.subject), stored::now(&self.broker, &self.stream))
        };
        let answer = self.broker.connected(asked).await.context("the broker is away").and_then(|answer| Ok(answer?));
        let (last, now) = answer.inspect_err(|_| (self.seen, self.is_old_news) = (None, true))?;
        let revision = last.as_ref().map_or(0, |last| last.sequence);
        let since = match self.seen {
            Some((known, since)) if known == revision => since,
            before => {
                self.is_old_news &= before.is_none();
                Instant::now()
            }
        };
        self.seen = Some((revision, since));
        let Some(last) = last.filter(|last| !last.body.is_empty()) else { return Ok(Duration::ZERO) };
        if self.claimed == Some(revision) {
            return Ok(Duration::ZERO);
        }
        let age = (now - last.at).to_std().unwrap_or_default();
        let age = if self.is_old_news { since.elapsed() } else { age.max(since.elapsed()) };
        Ok(STALE.saturating_sub(age))
    }

    /// Claims a key that is free, so that of several followers one tries to lead, and none takes the lead from one that has just begun. Whether
    /// this process may try.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer.
    pub async fn claim(&mut self) -> anyhow::Result<bool> {
        let Some((revision, _)) = self.seen else { return Ok(false) };
        if self.claimed == Some(revision) {
            return Ok(true);
        }
        let claimed = self.broker.connected(self.bucket.update(KEY, self.who.clone().into(), revision));
        match claimed.await.context("the broker is away")? {
            Ok(revision) => {
                self.seen = Some((revision, Instant::now()));
                self.claimed = Some(revision);
                Ok(true)
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(error).context("leader key not claimed"),
        }
    }

    /// Holds the key for this process, beside the work of the caller. A failure is made good by the next time.
    pub fn renew(&self) {
        let (bucket, who, writing) = (self.bucket.clone(), self.who.clone(), self.writing.clone());
        tokio::spawn(async move {
            let given_up = writing.lock().await;
            if !*given_up && let Err(error) = bucket.put(KEY, who.into()).await {
                tracing::debug!(%error, "leader key not renewed");
            }
        });
    }

    /// Gives the key up, so that another process need not wait.
    pub async fn give_up(&self) {
        // One that is on its way would be there behind the deletion, from nobody.
        *self.writing.lock().await = true;
        if let Err(error) = self.bucket.delete(KEY).await {
            tracing::debug!(%error, "leader key not given up");
        }
    }
}
