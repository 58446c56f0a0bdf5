package privatepg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	embedded "github.com/fergusstrange/embedded-postgres"
)

const (
	// fetchedVersion is the PostgreSQL that is downloaded: the host's.
	fetchedVersion = embedded.V16

	// unpackEnv turns this program into the child of unpackInChild.
	unpackEnv = "PRIVATEPG_UNPACK"
)

func init() {
	if os.Getenv(unpackEnv) == "" || len(os.Args) != 4 {
		return
	}
	if err := unpack(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// unpack downloads with the library, which has no function for that alone: it
// also starts a server, in its own way and never as root. It is given a data
// directory that consists of a version and nothing else, so that it downloads,
// unpacks, takes the directory for one to reuse, and fails to start.
func unpack(repository, work, unpacked string) error {
	major, _, _ := strings.Cut(string(fetchedVersion), ".")
	data := filepath.Join(work, "data")
	if err := os.Mkdir(data, 0o700); err != nil { //nolint:gosec // in a folder of our own
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(major+"\n"), 0o600); err != nil { //nolint:gosec // in a folder of our own
		return err
	}
	// The library insists on a port that is free.
	port, err := freePort(context.Background())
	if err != nil {
		return err
	}
	config := embedded.DefaultConfig().
		Version(fetchedVersion).Port(uint32(port)).Logger(io.Discard). //nolint:gosec // a port, as the system gave it
		CachePath(filepath.Join(work, "archive")).RuntimePath(filepath.Join(work, "runtime")).
		DataPath(data).BinariesPath(unpacked)
	if repository != "" {
		config = config.BinaryRepositoryURL(repository)
	}
	server := embedded.NewDatabase(config)
	startErr := server.Start()
	if startErr == nil {
		return errors.Join(errors.New("a server started without a configuration"), server.Stop())
	}
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(unpacked, "bin", name)); err != nil { //nolint:gosec // in a folder of our own
			return startErr
		}
	}
	return nil
}
