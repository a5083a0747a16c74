//! A service for tests: `ws-e2e-serve [tcp:PORT | udp:PORT | http:PORT | unix:PATH]…` answers on every port
//! with what it is sent (`http`: with its own name), on all addresses.
//!
//! Prints a line for each datagram, and `serving` when it listens everywhere, and ends on SIGTERM as programs without a handler do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

fn main() -> io::Result<()> {
    let name = std::env::var("WS_SERVICE").unwrap_or_else(|_| "nobody".to_owned());
    let mut threads = Vec::new();
    for argument in std::env::args().skip(1) {
        let (kind, place) = argument.split_once(':').unwrap_or((&argument, ""));
        let port = || {
            place
                .parse::<u16>()
                .map_err(|error| io::Error::other(format!("`{argument}` has no port: {error}")))
        };
        match kind {
            "tcp" => {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port()?))?;
                threads.push(thread::spawn(move || accept(&listener, echo)));
            }
            "http" => {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port()?))?;
                let name = name.clone();
                threads.push(thread::spawn(move || accept(&listener, move |stream| http(stream, &name))));
            }
            "udp" => {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port()?))?;
                threads.push(thread::spawn(move || datagrams(&socket)));
            }
            "unix" => {
                let listener = UnixListener::bind(place)?;
                threads.push(thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        thread::spawn(move || echo_unix(stream));
                    }
                }));
            }
            _ => return Err(io::Error::other(format!("`{argument}` is neither tcp, udp, http nor unix"))),
        }
    }
    writeln!(io::stdout(), "serving")?;
    if threads.is_empty() {
        // Nothing to serve: stays until it is stopped.
        loop {
            thread::park();
        }
    }
    for one in threads {
        // Listeners do not end.
        let _ = one.join();
    }
    Ok(())
}

fn accept(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    for stream in listener.incoming().flatten() {
        let serve = serve.clone();
        // A peer that goes away is its own business.
        thread::spawn(move || serve(stream).is_ok());
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

fn echo_unix(mut stream: UnixStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

fn http(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") && request.len() < 1 << 16 {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..length]);
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", name.len() + 1);
    stream.write_all(format!("{head}{name}\n").as_bytes())
}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    loop {
        // An error is an ICMP message about an earlier answer.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = writeln!(io::stdout(), "a datagram from {}", from.ip());
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
