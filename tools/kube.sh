#!/bin/sh
# Makes the folder of programs that tests/kube_plane.py runs: etcd and a Kubernetes control plane, from
# Debian 12's own packages. Nobody packages the API server, so that it is compiled from the source package
# of kubectl (v1.20.2, with Debian's Go 1.19): once, some ten minutes on two cores, 3 GB of disk meanwhile.
# Nothing is installed. Newer programs (1.24 and later also run engines of several nodes) can be put into
# the folder by hand instead.  Usage: tools/kube.sh FOLDER
set -eu
folder=${1:?usage: tools/kube.sh FOLDER}
commands="kube-apiserver kube-controller-manager kube-scheduler"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
is_there=yes
for program in etcd $commands; do [ -x "$folder/$program" ] || is_there=no; done
[ $is_there = yes ] && exit 0

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$work"
echo "fetching Debian's packages of etcd, Go and the source of Kubernetes"
mkdir -p lists/partial cache
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
printf 'deb %s bookworm main\ndeb-src %s bookworm main\n' "$mirror" "$mirror" > sources.list
apt="-q -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/nonexistent
  -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
# shellcheck disable=SC2086  # several options
apt-get $apt update
# shellcheck disable=SC2086
apt-get $apt download golang-1.19-go golang-1.19-src etcd-server
# shellcheck disable=SC2086
apt-get $apt source --download-only kubernetes
for package in *.deb; do dpkg -x "$package" root; done
source=$work/go/src/k8s.io/kubernetes
mkdir -p "$source"
tar xzf kubernetes_*.orig.tar.gz -C "$source" --strip-components=1
cp root/usr/bin/etcd "$folder/etcd"

echo "compiling"
export GOROOT="$work/root/usr/lib/go-1.19" GOPATH="$work/go" GO111MODULE=off CGO_ENABLED=0 GOCACHE="$work/gocache"
PATH="$GOROOT/bin:$PATH"
cd "$source"
# The one generated file that the source leaves out: the models of /openapi.
inputs=$(grep -rlE --include='*.go' '^\s*// ?\+k8s:openapi-gen=true' staging/src/k8s.io/*/ pkg cmd \
  | grep -vE '_examples|sample|/testdata|code-generator|/test/' | xargs -n1 dirname | sort -u \
  | sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e t -e 's#^#k8s.io/kubernetes/#' | paste -sd, -)
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
"$work/openapi-gen" --go-header-file hack/boilerplate/boilerplate.generatego.txt -i "$inputs" \
  -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi -o "$work/go/src" -r "$work/violations"
version=k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20"
vendored=k8s.io/kubernetes/vendor/$version
flags="$flags -X $vendored.gitVersion=v1.20.2 -X $vendored.gitMajor=1 -X $vendored.gitMinor=20"
for command in $commands; do go build -ldflags "$flags" -o "$folder/$command" "./cmd/$command"; done
