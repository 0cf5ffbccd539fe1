//! A server of files over HTTP/1.1, in one static program: a thread for each connection, which is kept.
//!
//! `http-static ADDRESS FOLDER`

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Bytes of a request's head at most.
const HEAD_MAX: u64 = 16 << 10;

fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(address), Some(folder)) = (words.next(), words.next()) else {
        eprintln!("usage: http-static ADDRESS FOLDER");
        std::process::exit(2);
    };
    let folder: Arc<Path> = PathBuf::from(folder).into();
    let listener = TcpListener::bind(address)?;
    loop {
        let (stream, _) = listener.accept()?;
        let folder = Arc::clone(&folder);
        // A connection that breaks concerns nobody else.
        let serve = move || drop(serve(stream, &folder));
        std::thread::Builder::new().stack_size(64 << 10).spawn(serve)?;
    }
}

/// Answers one request after another.
fn serve(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = reader.by_ref().take(HEAD_MAX);
        let (mut request, mut line) = (String::new(), String::new());
        if head.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut close = request.trim_end().ends_with("HTTP/1.0");
        loop {
            line.clear();
            head.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("connection") => {
                    close = value.trim().eq_ignore_ascii_case("close");
                }
                Some(_) => {}
                None if line.ends_with('\n') => break,
                None => return Ok(()),
            }
        }
        answer(&mut stream, &request, folder, close)?;
        if close {
            return Ok(());
        }
    }
}

fn answer(stream: &mut TcpStream, request: &str, folder: &Path, close: bool) -> std::io::Result<()> {
    let mut words = request.split_whitespace();
    let found = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) => open(folder, path).ok_or("404 Not Found"),
        _ => Err("405 Method Not Allowed"),
    };
    let connection = if close { "close" } else { "keep-alive" };
    match found {
        Ok((mut file, len)) => {
            let mut out =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: {connection}\r\n\r\n")
                    .into_bytes();
            // What is small goes in one segment with its head; the rest as the system copies it.
            let small = len < 32 << 10;
            if small {
                file.read_to_end(&mut out)?;
            }
            stream.write_all(&out)?;
            if !small {
                std::io::copy(&mut file, stream)?;
            }
            Ok(())
        }
        Err(status) => stream.write_all(
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n").as_bytes(),
        ),
    }
}

/// A regular file of the folder and its length.
fn open(folder: &Path, path: &str) -> Option<(File, u64)> {
    let relative = Path::new(path.strip_prefix('/')?);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let file = File::open(folder.join(relative)).ok()?;
    let facts = file.metadata().ok()?;
    facts.is_file().then_some((file, facts.len()))
}
