package privatepg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// CacheDir is where downloads are kept. Root's own cache is closed to the user
// that the server runs as.
func CacheDir() string {
	if os.Geteuid() == 0 {
		return "/var/cache/tokenalert"
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "tokenalert")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("tokenalert-cache-%d", os.Geteuid()))
}

// fetch downloads PostgreSQL, once for each cache, and returns the folder of
// its programs. An empty repository is the library's own.
func fetch(ctx context.Context, repository, cache string) (string, error) {
	home := filepath.Join(cache, "postgresql-"+string(fetchedVersion))
	if err := fetchInto(ctx, home, repository, cache); err != nil {
		return "", fmt.Errorf("download PostgreSQL %s: %w", fetchedVersion, err)
	}
	return filepath.Join(home, "bin"), nil
}

// fetchInto downloads while it holds the cache's lock, unless somebody has done
// so before. The folder appears by a rename, and so is complete if it is there.
func fetchInto(ctx context.Context, home, repository, cache string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // the programs in it are run by another account
		return err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // in a folder of our own, and empty
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := awaitLock(ctx, lock); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(home); err == nil {
		return nil
	}

	work, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return err
	}
	unpacked := filepath.Join(work, "postgresql")
	if err := unpackInChild(ctx, repository, work, unpacked); err != nil {
		return errors.Join(err, os.RemoveAll(work))
	}
	return errors.Join(os.Rename(unpacked, home), os.RemoveAll(work))
}

func awaitLock(ctx context.Context, f *os.File) error {
	again := time.NewTicker(readyProbe)
	defer again.Stop()
	for {
		if err := flock(f); !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

// unpackInChild runs unpack in a copy of this program, because the library can
// neither be interrupted nor be kept from leaving a temporary file: the child
// can be killed, and its temporary folder is one that is removed.
func unpackInChild(ctx context.Context, repository, work, unpacked string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var said strings.Builder
	cmd := account{}.command(self, repository, work, unpacked)
	cmd.Env = append(cmd.Env, unpackEnv+"=1", "TMPDIR="+work)
	cmd.Stderr = &said
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
