"""A stateful model of Apache CloudStack (KVM, >= 4.19) behind a real HTTP server, for tests of the driver.

A test starts it and looks at its state so:

    with CloudStack() as server:  # tests.cloudstack.server; or the fixture `cloudstack`
        key = server.estate.admin  # .api, .secret; server.estate.operator is a plain user
        client = cs.CloudStack(endpoint=server.url, key=key.api, secret=key.secret)
        ...
        server.estate.template.id, .small.id, .production.id, .disk.id ...  # what the cloud starts with
        server.cloud.vms[id].state / .nics / .details, server.cloud.volumes[id], server.cloud.snapshots[id]
        server.write_in_guest(vm, serial, b"data"); server.disks_in_guest(vm)[0].content   # a running guest
        server.content(volume_id), server.write(volume_id, b"data")  # the storage's side
        server.faults.add(Fault("attachVolume", "close_after", nth=2))  # tests.cloudstack.faults
        server.jobs.hold("createSnapshot"); server.jobs.release("createSnapshot"); server.jobs.fail_next(...)
        server.advance(3600)  # virtual seconds; each request takes one of itself
        server.restart(jobs="keep" | "fail" | "lose")
        server.add_key(Key("dr", "api", "secret", role="User", denied=frozenset({"revertSnapshot"})))
        server.edge.limit = 10  # requests until 429, until the next advance()
        server.skew = timedelta(minutes=20)  # the server's clock against the client's
        server.check()  # commands and parameters that no CloudStack knows

The model is written from CloudStack's public sources and docs, not from the driver: what it refuses,
CloudStack refuses. The tests beside it name the source of each rule.
"""
