# SPDX-License-Identifier: Apache-2.0
"""Pod Security's level "restricted", as of Kubernetes 1.36: every rule of it and of "baseline", which it contains.

    list(pod_security.violations(pod_spec))        # lines; none: a namespace that enforces the level admits the pod

https://kubernetes.io/docs/concepts/security/pod-security-standards/ has the rules. Kubernetes' own admission is Go, which Debian 12 has in no
version that builds it. Stricter in one place: what user namespaces (hostUsers: false) would relax is not relaxed.
"""
SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
           "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
           "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def _containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]


def violations(pod, annotations=None):
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for sysctl in pod.get("securityContext", {}).get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"the sysctl {sysctl['name']} is not a safe one"
    for name, value in (annotations or {}).items():
        if name.startswith(APPARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"AppArmor is {value}"
    for volume in pod.get("volumes", []):
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"the volume {volume['name']} is a {kind}"
    yield from _context(pod.get("securityContext", {}), "the pod")
    for container in _containers(pod):
        yield from _container(pod.get("securityContext", {}), container, container["name"])


def _context(security, who):
    """What may be said of a pod as of a container."""
    if security.get("windowsOptions", {}).get("hostProcess"):
        yield f"{who}: a HostProcess"
    linux = security.get("seLinuxOptions", {})
    if linux.get("type") not in SELINUX_TYPES or linux.get("user") or linux.get("role"):
        yield f"{who}: SELinux options of its own"
    if security.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield f"{who}: AppArmor is Unconfined"
    if "seccompProfile" in security and security["seccompProfile"].get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{who}: the seccomp profile is {security['seccompProfile'].get('type')}"
    if security.get("runAsUser") == 0:
        yield f"{who}: runAsUser is 0"


def _container(pod, container, who):
    security = container.get("securityContext", {})
    yield from _context(security, who)
    if security.get("privileged"):
        yield f"{who}: privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{who}: allowPrivilegeEscalation is not false"
    if security.get("procMount") not in (None, "Default"):
        yield f"{who}: procMount is {security['procMount']}"
    if security.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{who}: runAsNonRoot is not true"
    if "seccompProfile" not in {**pod, **security}:
        yield f"{who}: no seccomp profile"
    capabilities = security.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{who}: capabilities do not drop ALL"
    if extra := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{who}: capabilities {', '.join(sorted(extra))}"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"{who}: hostPort {port['hostPort']}"
    handlers = [container.get(name, {}) for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    handlers += container.get("lifecycle", {}).values()
    for handler in handlers:
        for kind in ("httpGet", "tcpSocket"):
            if isinstance(handler, dict) and handler.get(kind, {}).get("host"):
                yield f"{who}: a probe or hook names the host {handler[kind]['host']}"
