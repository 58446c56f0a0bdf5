package privatepg

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// abandonedAfter is when a directory that has no lock yet is taken for
	// one whose creator died within the moment that creating takes.
	abandonedAfter = 10 * time.Minute

	// orphanEndsWithin bounds the wait for a server whose process has died.
	orphanEndsWithin = 5 * time.Second
)

// sweep removes the directories that dead processes have left. It does what it
// can: whatever it cannot remove is left to the next one.
func sweep(acc account) {
	paths, _ := filepath.Glob(filepath.Join(os.TempDir(), directoryPrefix+"*"))
	for _, path := range paths {
		if isOurs(path, acc) {
			reclaim(path)
		}
	}
}

// isOurs tells whether a path is a directory that we, or the user that our
// servers run as, could have created. Root must not believe what anybody may
// put under the temporary directory.
func isOurs(path string, acc account) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(stat.Uid) == os.Geteuid() || stat.Uid == uint32(acc.uid)) //nolint:gosec // a user's id, which is 32 bits
}

// reclaim removes a directory whose owner is dead. A server that is still there
// has just lost its owner, or runs where no signal tells it of that: it is
// asked to end.
func reclaim(path string) {
	owner, err := takeLock(path, ownerLock)
	if errors.Is(err, fs.ErrNotExist) {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.RemoveAll(path)
		}
		return
	}
	if err != nil {
		return
	}
	defer func() { _ = owner.Close() }()

	deadline := time.Now().Add(orphanEndsWithin)
	for asked := false; ; asked = true {
		server, err := takeLock(path, serverLock)
		if err == nil {
			_ = os.RemoveAll(path)
			_ = server.Close()
			return
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return
		}
		if !asked {
			quitOrphan(path)
		}
		time.Sleep(readyProbe)
	}
}

// quitOrphan asks the postmaster of a directory to shut down immediately. The
// first line of postmaster.pid is its process id, and the server's lock, which
// somebody holds, says that it is not an old one.
func quitOrphan(path string) {
	content, err := os.ReadFile(filepath.Join(path, "data", "postmaster.pid")) //nolint:gosec // in a directory that isOurs
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(content), "\n")
	if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGQUIT)
	}
}

// takeLock locks an existing file.
func takeLock(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0) //nolint:gosec // in a directory that isOurs
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}
