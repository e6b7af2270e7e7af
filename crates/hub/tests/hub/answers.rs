//! Answers of the hub: tokens, redirects, retries and errors.

use super::*;

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let world = World::new(whole_model());
    let mut settings = world.settings();
    settings.token = Some("hf_secret".to_owned());
    Hub::new(settings).unwrap().model(ID, None, &Quiet).unwrap();
    assert!(!world.cdn.requests().is_empty());
    assert!(world.hub.requests().iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    assert!(world.cdn.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[test]
fn a_renamed_repository_is_followed_with_the_token() {
    let world = World::with_hub(whole_model(), |repo, request, cdn| {
        match request.path.strip_prefix("/api/models/old/name") {
            Some(rest) => Reply::new(307, "").with("Location", format!("/api/models/{}{rest}", repo.id)),
            None => match request.path.strip_prefix("/old/name") {
                Some(rest) => Reply::new(307, "").with("Location", format!("/{}{rest}", repo.id)),
                None => repo.answer(request, cdn),
            },
        }
    });
    let mut settings = world.settings();
    settings.token = Some("hf_secret".to_owned());
    let model = Hub::new(settings).unwrap().model("old/name", None, &Quiet).unwrap();
    assert_eq!(model.commit, COMMIT);
    assert!(world.hub.requests().iter().all(|r| r.header("authorization").is_some()));
}

#[test]
fn endless_redirects_end() {
    let world = World::with_hub(whole_model(), |_, request, _| {
        Reply::new(302, "").with("Location", request.path.clone())
    });
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("redirects endlessly"), "{says}");
}

#[test]
fn transient_faults_are_retried() {
    let count = AtomicUsize::new(0);
    let world = World::with_hub(whole_model(), move |repo, request, cdn| {
        match count.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Reply::new(503, ""),
            1 => Reply::new(429, "").with("Retry-After", "0"),
            _ => repo.answer(request, cdn),
        }
    });
    world.client().model(ID, None, &Quiet).unwrap();
    let world = World::with_hub(whole_model(), |_, _, _| Reply::new(503, r#"{"error": "maintenance"}"#));
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("HTTP 503") && says.contains("maintenance"), "{says}");
    assert_eq!(world.request_count(), 3);
}

#[test]
fn an_unreachable_hub_fails_at_once() {
    let world = World::new(whole_model());
    let mut settings = world.settings();
    // A port that was just free is not open.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.endpoint = format!("http://{free}");
    settings.backoff = std::time::Duration::from_secs(3600);
    let says = message(Hub::new(settings).unwrap().model(ID, None, &Quiet));
    assert!(says.contains("check the connection"), "{says}");
}

#[test]
fn a_gated_model_says_how_to_get_access() {
    for status in [401, 403] {
        // The listing of a gated model is public, its files are not.
        let world = World::with_hub(whole_model(), move |repo, request, cdn| {
            if request.path.starts_with("/api/") {
                return repo.answer(request, cdn);
            }
            Reply::new(status, "")
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", "Access is restricted.")
        });
        let page = format!("{}/{ID}", world.hub.url());
        let says = message(world.client().model(ID, None, &Quiet));
        assert!(
            says.contains("set HF_TOKEN") && says.contains(&page) && says.contains("restricted"),
            "{says}"
        );
        let mut settings = world.settings();
        settings.token = Some("hf_weak".to_owned());
        let says = message(Hub::new(settings).unwrap().model(ID, None, &Quiet));
        assert!(says.contains("account of your token") && !says.contains("hf_weak"), "{says}");
    }
}

#[test]
fn missing_things_are_named() {
    let world = World::new(whole_model());
    let hub = world.client();
    let says = message(hub.model("org/none", None, &Quiet));
    assert!(says.contains("`org/none` was not found") && says.contains("check the spelling"), "{says}");
    let says = message(hub.model(ID, Some("v9"), &Quiet));
    assert!(says.contains("no revision `v9`"), "{says}");
    let says = message(hub.model_file(ID, None, "none.gguf", &Quiet));
    assert!(says.contains("no file `none.gguf`"), "{says}");
    assert!(matches!(hub.model("not an id", None, &Quiet), Err(HubError::InvalidId { .. })));
    assert!(matches!(hub.model(ID, Some("../x"), &Quiet), Err(HubError::InvalidRevision { .. })));
    // Without a token, the hub answers 401 for missing repositories.
    let world = World::with_hub(whole_model(), |_, _, _| {
        Reply::new(401, r#"{"error":"Invalid username or password."}"#)
    });
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("was not found") && says.contains("HF_TOKEN"), "{says}");
}

#[test]
fn a_server_that_is_not_a_hub_is_recognised() {
    let world = World::with_hub(whole_model(), |_, _, _| Reply::new(200, "<html>welcome</html>"));
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("HF_ENDPOINT"), "{says}");
}
