//! A small server for tests: answers HTTP with who it is and what it sees, in one static executable.
//!
//! `testserver [PORT]` serves: `/` host name and client address, `/env/NAME` an environment variable, `/file/PATH` a file,
//! `/exit/CODE` ends the process, `/healthy` 200 until `/fail` was asked, `/log/TEXT` writes a line to standard output.
#![allow(clippy::print_stdout, reason = "its output is what tests of logs read")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static FAILING: AtomicBool = AtomicBool::new(false);

fn answer(path: &str, peer: &str) -> (u16, String) {
    let (first, rest) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match first {
        "" => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            (200, format!("host {} client {peer}\n", host.trim()))
        }
        "env" => std::env::var(rest).map_or((404, String::new()), |value| (200, format!("{value}\n"))),
        "file" => std::fs::read_to_string(format!("/{rest}"))
            .map_or_else(|e| (404, e.to_string()), |text| (200, text)),
        "healthy" if FAILING.load(Ordering::Relaxed) => (500, "failing\n".into()),
        "healthy" => (200, "ok\n".into()),
        "fail" => {
            FAILING.store(true, Ordering::Relaxed);
            (200, "failing from now on\n".into())
        }
        "log" => {
            println!("{rest}");
            (200, "logged\n".into())
        }
        "exit" => std::process::exit(rest.parse().unwrap_or(1)),
        _ => (404, "not found\n".into()),
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let peer = stream.peer_addr()?.ip().to_string();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (code, body) = answer(path, &peer);
    write!(
        stream,
        "HTTP/1.1 {code} Status\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn main() -> std::io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("serving on port {port}");
    for stream in listener.incoming() {
        let stream = stream?;
        // One thread a request: the tests make few at a time.
        std::thread::spawn(move || drop(serve(stream)));
    }
    Ok(())
}
