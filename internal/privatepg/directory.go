package privatepg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// directoryPrefix marks our directories under os.TempDir.
	directoryPrefix = "tokenalert-pg-"

	ownerLock  = "owner.lock"
	serverLock = "server.lock"

	// maxSocketPath is what fits in sockaddr_un on every platform, without the
	// terminating zero (104 bytes on macOS, 108 on Linux).
	maxSocketPath = 103
)

// directory is a server's home: its data, its socket, and two locked files
// that say who is alive. The locks are flock's, which the kernel releases with
// the last descriptor. The owner's lock is held by our process alone; the
// server's lock also by the postmaster and all its children, which inherit the
// descriptor. No process id is needed to know whether somebody still lives
// here, and so none can be mistaken for another process.
type directory struct {
	path   string
	owner  *os.File
	server *os.File
}

func newDirectory(acc account) (*directory, error) {
	path, err := os.MkdirTemp("", directoryPrefix)
	if err != nil {
		return nil, fmt.Errorf("create the server's directory: %w", err)
	}
	d := &directory{path: path}
	if err := d.prepare(acc); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the server's directory: %w", err), d.remove())
	}
	return d, nil
}

func (d *directory) prepare(acc account) error {
	if socket := filepath.Join(d.path, ".s.PGSQL.65535.lock"); len(socket) > maxSocketPath {
		return fmt.Errorf("%s is too long for a Unix socket: set TMPDIR to a shorter path", socket)
	}
	// A directory without the owner's lock is one in the making, to a sweep:
	// so this lock comes last.
	var err error
	if d.server, err = newLock(d.path, serverLock); err != nil {
		return err
	}
	if d.owner, err = newLock(d.path, ownerLock); err != nil {
		return err
	}
	return acc.own(d.path)
}

func (d *directory) data() string { return filepath.Join(d.path, "data") }

// remove deletes the directory and then lets go of its locks.
func (d *directory) remove() error {
	var errs []error
	if err := os.RemoveAll(d.path); err != nil {
		errs = append(errs, fmt.Errorf("remove the server's directory: %w", err))
	}
	for _, f := range []*os.File{d.server, d.owner} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// newLock creates a file that nobody has ever seen unlocked: it gets its name
// after the lock.
func newLock(dir, name string) (*os.File, error) {
	f, err := os.CreateTemp(dir, name)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// flock takes an exclusive lock, or fails with EWOULDBLOCK at once.
func flock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
