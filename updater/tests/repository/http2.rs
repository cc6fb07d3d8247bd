//! Blobs over HTTP/2, from a server that speaks it over TLS.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use updater::config::Repository;
use updater::fetch::Fetcher;

use super::gateway::client;
use updater::ports::{Fetch, Stopper, Verdict};

use crate::tls::{Authority, HERE, named};
use crate::web::{blob, content, patience, runtime};

/// How many streams have to be open before any of them ends.
const TOGETHER: usize = 4;
/// The streams, by their number, that end in the middle.
const BROKEN: Range<usize> = 5..8;

/// A server, and what it saw.
struct Server {
    content: Bytes,
    connections: AtomicUsize,
    streams: watch::Sender<usize>,
    /// The bytes that it sent, by request.
    sent: std::sync::Mutex<Vec<Range<usize>>>,
}

impl Server {
    async fn run(self: Arc<Self>, listener: TcpListener, config: Arc<ServerConfig>) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let acceptor = TlsAcceptor::from(config);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            self.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(Arc::clone(&self).serve(stream, acceptor.clone()));
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let tls = acceptor.accept(stream).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut connection = h2::server::handshake(tls).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(Arc::clone(&self).answer(request, respond));
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        let range = request.headers()["range"].to_str().unwrap();
        let (from, last) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let range: Range<usize> = from.parse().unwrap()..last.parse::<usize>().unwrap() + 1;
        let (size, body) = (self.content.len(), self.content.slice(range.clone()));
        // No length, so that a stream may end early without a word.
        let head = Response::builder()
            .status(206)
            .header("content-range", format!("bytes {from}-{last}/{size}"))
            .body(())
            .unwrap();
        let number = self.streams.borrow().to_owned();
        let mut stream = respond.send_response(head, false).unwrap();
        self.streams.send_modify(|streams| *streams += 1);
        let mut streams = self.streams.subscribe();
        streams
            .wait_for(|streams| *streams >= TOGETHER)
            .await
            .unwrap();
        let cut = match BROKEN.contains(&number) {
            true => body.len() / 2 + 1,
            false => body.len(),
        };
        self.sent
            .lock()
            .unwrap()
            .push(range.start..range.start + cut);
        if cut == body.len() {
            stream.send_data(body, true).unwrap();
            return;
        }
        // It breaks once the client has all of it.
        let mut rest = body.slice(..cut);
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|task| stream.poll_capacity(task)).await;
            let Some(Ok(room)) = room else { return };
            stream
                .send_data(rest.split_to(room.min(rest.len())), false)
                .unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    }
}

#[test]
fn parts_come_over_one_connection_of_http2_and_broken_streams_are_taken_up() {
    let authority = Authority::called("Ours");
    let config = authority.vouches(&named(HERE)).config(&["h2", "http/1.1"]);
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let size = 12 << 20;
    let server = Arc::new(Server {
        content: content(size).into(),
        connections: AtomicUsize::new(0),
        streams: watch::Sender::new(0),
        sent: std::sync::Mutex::default(),
    });
    runtime().spawn(Arc::clone(&server).run(listener, config));

    let client = client(&authority.trusted());
    let repository = Repository::parse(&address).unwrap();
    let mut fetcher = Fetcher::new([repository], client, patience(), runtime());
    let mut taken = vec![0_u8; size];
    let mut times = vec![0_u8; size];
    #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
    let ranges = [0..u64::try_from(size).unwrap()];
    fetcher
        .fetch_ranges(&blob(size), &ranges, &Stopper::new().1, &mut |at, bytes| {
            let start = usize::try_from(at).unwrap();
            taken[start..start + bytes.len()].copy_from_slice(bytes);
            times[start..start + bytes.len()]
                .iter_mut()
                .for_each(|times| *times += 1);
            Verdict::Taken
        })
        .unwrap();
    assert!(taken == server.content);
    assert!(times.iter().all(|times| *times == 1));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert!(*server.streams.borrow() > BROKEN.end);
    // Nor was anything sent twice.
    let sent: usize = server.sent.lock().unwrap().iter().map(Range::len).sum();
    assert_eq!(sent, size);
}
