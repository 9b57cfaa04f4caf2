"""What every modelled cloud starts with: pools, hosts, networks, offerings, templates, OS types and two
keys."""

from dataclasses import dataclass

from tests.cloudstack.cloud import Cloud
from tests.cloudstack.model import DiskOffering, Host, Key, Network, Offering, OsType, Pool, Template

OS_TYPES = (
    ("Debian GNU/Linux 12 (64-bit)", "Debian"),
    ("Ubuntu 22.04 LTS", "Ubuntu"),
    ("Rocky Linux 9", "RedHat"),
    ("Red Hat Enterprise Linux 9.0", "RedHat"),
    ("CentOS 7.9", "CentOS"),
    ("SUSE Linux Enterprise Server 15 (64-bit)", "SUSE"),
    ("Other Linux (64-bit)", "Other"),
    ("Other PV (64-bit)", "Other"),
    ("Windows Server 2016 (64-bit)", "Windows"),
    ("Windows Server 2019 (64-bit)", "Windows"),
    ("Windows Server 2022 (64-bit)", "Windows"),
    ("Windows 10 (64-bit)", "Windows"),
    ("Windows PV", "Windows"),
)


@dataclass(frozen=True)
class Estate:
    """The entities by their part in a test."""

    nfs: Pool
    ceph: Pool
    cluster: Pool
    managed: Pool
    frozen: Pool  # its snapshots can't be reverted
    small: Offering
    large: Offering
    custom: Offering
    bounded: Offering
    volatile: Offering
    disk: DiskOffering
    disk_ceph: DiskOffering
    disk_cluster: DiskOffering
    disk_managed: DiskOffering
    disk_frozen: DiskOffering
    disk_fixed: DiskOffering
    template: Template
    management: Network
    production: Network
    isolated: Network
    test: Network
    l2: Network
    admin: Key
    operator: Key


def furnish(cloud: Cloud) -> Estate:
    for name, category in OS_TYPES:
        _os(cloud, OsType(name, category))
    _host(cloud, Host("kvm-1"))
    _host(cloud, Host("kvm-2"))
    debian = next(item.id for item in cloud.os_types.values() if item.name.startswith("Debian"))
    template = Template("controller", 2, debian, b"controller's own system")
    cloud.templates[template.id] = template
    return Estate(
        nfs=_pool(cloud, Pool("nfs")),
        ceph=_pool(cloud, Pool("ceph", type="RBD", tag="ceph")),
        cluster=_pool(
            cloud, Pool("cluster", scope="CLUSTER", where="cluster-1", type="SharedMountPoint", tag="cluster")
        ),
        managed=_pool(cloud, Pool("powerflex", type="PowerFlex", managed=True, tag="managed")),
        frozen=_pool(cloud, Pool("frozen", revertable=False, tag="frozen")),
        small=_offering(cloud, Offering("small", 1, 1024)),
        large=_offering(cloud, Offering("large", 4, 8192, ha=True)),
        custom=_offering(cloud, Offering("custom", speed=None)),
        bounded=_offering(cloud, Offering("bounded", cpu_range=(1, 8), memory_range=(512, 16384))),
        volatile=_offering(cloud, Offering("volatile", 1, 1024, volatile=True)),
        disk=_disk(cloud, DiskOffering("custom-disk")),
        disk_ceph=_disk(cloud, DiskOffering("ceph-disk", tag="ceph")),
        disk_cluster=_disk(cloud, DiskOffering("cluster-disk", tag="cluster")),
        disk_managed=_disk(cloud, DiskOffering("managed-disk", tag="managed")),
        disk_frozen=_disk(cloud, DiskOffering("frozen-disk", tag="frozen")),
        disk_fixed=_disk(cloud, DiskOffering("fixed-20", gib=20)),
        template=template,
        management=_network(cloud, Network("management", "Isolated", "10.1.1.0/24", "10.1.1.1")),
        production=_network(
            cloud, Network("production", "Shared", "192.0.2.0/24", "192.0.2.1", ("192.0.2.50", "192.0.2.99"))
        ),
        isolated=_network(cloud, Network("recovery", "Isolated", "198.51.100.0/24", "198.51.100.1")),
        test=_network(cloud, Network("test", "Isolated", "203.0.113.0/24", "203.0.113.1")),
        l2=_network(cloud, Network("l2", "L2", None, None)),
        admin=_key(cloud, Key("admin", "admin-api-key", "admin-secret-key")),
        operator=_key(cloud, Key("operator", "operator-api-key", "operator-secret-key", role="User")),
    )


def _os(cloud: Cloud, item: OsType) -> OsType:
    cloud.os_types[item.id] = item
    return item


def _host(cloud: Cloud, item: Host) -> Host:
    cloud.hosts[item.id] = item
    return item


def _pool(cloud: Cloud, item: Pool) -> Pool:
    cloud.pools[item.id] = item
    return item


def _offering(cloud: Cloud, item: Offering) -> Offering:
    cloud.offerings[item.id] = item
    return item


def _disk(cloud: Cloud, item: DiskOffering) -> DiskOffering:
    cloud.disk_offerings[item.id] = item
    return item


def _network(cloud: Cloud, item: Network) -> Network:
    cloud.networks[item.id] = item
    return item


def _key(cloud: Cloud, item: Key) -> Key:
    cloud.keys[item.api] = item
    return item
