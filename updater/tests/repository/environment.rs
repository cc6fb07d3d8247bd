//! What the environment of the daemon changes. Each test runs itself again in a
//! process of its own, as nobody may change the environment of a process at work.

use std::process::Command;

use updater::fetch::chain;
use updater::ports::{Fetch, FetchError, Stopper, Verdict};

use crate::web::{Server, blob, content, fetcher, head, patience, sound};

const SIZE: usize = 10_000;
/// Tells a child apart, and what it is to fetch from.
const ADDRESS: &str = "BISTABLE_TEST_ADDRESS";

/// Fetches from the address that the parent gave; `None` in the parent.
fn fetched_in_child() -> Option<Result<(), FetchError>> {
    let address = std::env::var(ADDRESS).ok()?;
    let mut taken = Vec::new();
    let mut sink = |bytes: &[u8]| {
        taken.extend_from_slice(bytes);
        Verdict::Taken
    };
    let mut fetcher = fetcher(&[&address], patience());
    let result = fetcher.fetch(&blob(SIZE), 0, &Stopper::new().1, &mut sink);
    Some(result.map(|()| assert!(taken == content(SIZE))))
}

/// Runs the test `name` again with these variables.
fn again(name: &str, address: &str, variables: &[(&str, &str)]) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture"])
        .env(ADDRESS, address);
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        child
            .env_remove(variable)
            .env_remove(variable.to_lowercase());
    }
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(told.contains("1 passed"), "{told}");
}

#[test]
fn nobody_is_redirected_to_the_machine_itself_or_to_its_cloud() {
    for place in [
        "http://169.254.169.254/latest/user-data",
        "http://127.0.0.1:10250/pods",
        "http://localhost/",
        "http://[::1]/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://0/",
    ] {
        if let Some(result) = fetched_in_child() {
            let words = chain(&result.unwrap_err());
            assert!(words.contains("redirected to this machine"), "{words}");
            return;
        }
        let proxy = Server::start(move |_, stream| {
            head(stream, "302 Found", &[format!("Location: {place}")])
        });
        again(
            "environment::nobody_is_redirected_to_the_machine_itself_or_to_its_cloud",
            "http://repository.invalid/base",
            &[("HTTP_PROXY", proxy.address())],
        );
        assert_eq!(proxy.requests().len(), 1, "{place}");
    }
}

#[test]
fn a_proxy_that_the_environment_names_is_asked() {
    if let Some(result) = fetched_in_child() {
        return result.unwrap();
    }
    let proxy = Server::start(|request, stream| sound(request, stream, &content(SIZE)));
    again(
        "environment::a_proxy_that_the_environment_names_is_asked",
        "http://repository.invalid/base",
        &[("HTTP_PROXY", proxy.address())],
    );
    let [request] = &proxy.requests()[..] else {
        panic!()
    };
    let expected = format!("http://repository.invalid/base/blobs/{}", "b1".repeat(32));
    assert_eq!(request.path, expected);
}

#[test]
fn no_proxy_is_asked_for_what_the_environment_excepts() {
    if let Some(result) = fetched_in_child() {
        return result.unwrap();
    }
    let proxy = Server::start(|request, stream| sound(request, stream, &content(SIZE)));
    let server = Server::start(|request, stream| sound(request, stream, &content(SIZE)));
    again(
        "environment::no_proxy_is_asked_for_what_the_environment_excepts",
        server.address(),
        &[
            ("HTTP_PROXY", proxy.address()),
            ("NO_PROXY", "127.0.0.1,.internal"),
        ],
    );
    assert_eq!(proxy.requests(), []);
    assert_eq!(server.requests().len(), 1);
}

/// No bundle where the node looks for one.
const NO_AUTHORITIES: [(&str, &str); 2] = [
    ("SSL_CERT_FILE", "/nonexistent/bundle.pem"),
    ("SSL_CERT_DIR", "/nonexistent"),
];

#[test]
fn a_node_without_authorities_reaches_servers_without_tls() {
    if let Some(result) = fetched_in_child() {
        return result.unwrap();
    }
    let server = Server::start(|request, stream| sound(request, stream, &content(SIZE)));
    again(
        "environment::a_node_without_authorities_reaches_servers_without_tls",
        server.address(),
        &NO_AUTHORITIES,
    );
}

#[test]
fn a_node_without_authorities_says_so_when_it_is_to_believe_a_server() {
    if let Some(result) = fetched_in_child() {
        let told = chain(&result.unwrap_err());
        assert!(
            told.contains("this node knows nobody who vouches for servers"),
            "{told}"
        );
        return;
    }
    again(
        "environment::a_node_without_authorities_says_so_when_it_is_to_believe_a_server",
        "https://127.0.0.1:1/",
        &NO_AUTHORITIES,
    );
}
