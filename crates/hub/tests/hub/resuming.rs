//! Interrupted downloads.

use super::*;

/// A host of large files that breaks its first connection half-way.
fn breaks_once(repo: Repo) -> World {
    let count = AtomicUsize::new(0);
    World::with_cdn(repo, move |repo, request| {
        let mut reply = repo.answer_blob(request);
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut = Some(reply.body.len() / 2);
        }
        reply
    })
}

#[test]
fn a_broken_download_resumes() {
    let world = breaks_once(whole_model());
    let progress = Recorder::default();
    let model = world.client().model(ID, None, &progress).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    let requests = world.cdn.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("range"), None);
    assert_eq!(requests[1].header("range"), Some("bytes=150000-"));
    assert_eq!(progress.finished().last().unwrap().2, 300_000, "no byte is reported twice");
}

#[test]
fn the_next_run_resumes_an_interrupted_one() {
    let world = breaks_once(whole_model());
    let mut settings = world.settings();
    settings.retries = 0;
    let says = message(Hub::new(settings).unwrap().model(ID, None, &Quiet));
    assert!(says.contains("run again to continue"), "{says}");
    assert!(!says.contains("Signature"), "{says}");
    let blob =
        world.cache.path().join(FOLDER).join("blobs").join(world.repo.file("model.safetensors").etag());
    assert_eq!(fs::metadata(blob.with_extension("incomplete")).unwrap().len(), 150_000);
    let says = message(world.offline().model(ID, None, &Quiet));
    assert!(says.contains("lacks the weights"), "{says}");
    let progress = Recorder::default();
    let model = world.client().model(ID, None, &progress).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    assert_eq!(world.cdn.requests()[1].header("range"), Some("bytes=150000-"));
    assert_eq!(progress.finished(), [("model.safetensors".to_owned(), Some(300_000), 300_000)]);
    assert!(!blob.with_extension("incomplete").exists());
}

/// Fetches a model whose weights were begun with `partial`, from a host that answers as `cdn` does.
fn fetch_after_partial(
    partial: &[u8],
    cdn: impl Fn(&Repo, &support::Request) -> Reply + Send + Sync + 'static,
) -> World {
    let world = World::with_cdn(whole_model(), cdn);
    let weights = world.repo.file("model.safetensors");
    let blobs = world.cache.path().join(FOLDER).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", weights.etag())), partial).unwrap();
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), weights.bytes);
    world
}

#[test]
fn a_server_that_ignores_ranges_makes_the_file_start_again() {
    let begin = whole_model().file("model.safetensors").bytes[..1000].to_vec();
    let world =
        fetch_after_partial(&begin, |repo, _| Reply::new(200, &*repo.file("model.safetensors").bytes));
    assert_eq!(world.cdn.requests().len(), 1, "the whole file of the first answer is used");
}

#[test]
fn a_range_that_begins_elsewhere_is_not_used() {
    let begin = whole_model().file("model.safetensors").bytes[..1000].to_vec();
    fetch_after_partial(&begin, |repo, request| {
        let mut reply = repo.answer_blob(request);
        if reply.status == 206 {
            reply.headers = vec![("Content-Range".to_owned(), "bytes 5-299999/300000".to_owned())];
        }
        reply
    });
}

#[test]
fn leftovers_of_another_file_are_discarded() {
    let world = fetch_after_partial(b"something else", |repo, request| repo.answer_blob(request));
    let ranges: Vec<_> = world.cdn.requests().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [Some("bytes=14-".to_owned()), None]);
    fetch_after_partial(&vec![7; 300_001], |repo, request| repo.answer_blob(request));
    fetch_after_partial(&vec![7; 300_000], |repo, request| repo.answer_blob(request));
}

#[test]
fn a_hub_without_large_file_storage_is_resumed_too() {
    // Mirrors may serve large files themselves, with the digest as an ordinary entity tag.
    let count = AtomicUsize::new(0);
    let world = World::with_hub(whole_model(), move |repo, request, cdn| {
        let file = repo.file("model.safetensors");
        if !request.path.ends_with(&file.name) {
            return repo.answer(request, cdn);
        }
        let mut reply = ranged(request, &file.bytes).with("ETag", format!("\"{}\"", file.etag()));
        if request.method == "GET" && count.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut = Some(100_000);
        }
        reply
    });
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    let ranges: Vec<_> = world
        .hub
        .asked("GET", "/model.safetensors")
        .iter()
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}
