//! A nats-server of the test's own, on a port of the system's choice, ended by its process id.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

pub struct Server {
    process: Child,
    store: PathBuf,
    pub url: String,
}

impl Server {
    pub fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let store = std::env::temp_dir().join(format!("portcullis-cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&store).expect("a directory for the streams");
        let program = std::env::var("PORTCULLIS_NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let mut process = Command::new(&program)
            .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
            .arg(&store)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {program}: {error}; install nats-server, or name it in PORTCULLIS_NATS_SERVER")
            });
        let said = BufReader::new(process.stderr.take().expect("piped"));
        let (tell, told) = mpsc::channel();
        // Reads on to the end: a full pipe would stop the server.
        std::thread::spawn(move || {
            let mut address = None;
            for line in said.lines().map_while(Result::ok) {
                if let Some((_, found)) = line.split_once("Listening for client connections on ") {
                    address = Some(format!("nats://{}", found.trim()));
                }
                if line.contains("Server is ready") {
                    let _ = tell.send(address.take());
                }
            }
        });
        // From here on it is ended also by a panic.
        let mut server = Self { process, store, url: String::new() };
        let address = told.recv_timeout(Duration::from_secs(20)).expect("the server did not get ready");
        server.url = address.expect("the server did not say where it listens");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.store);
    }
}
