package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"tokenalert/internal/module"
)

// build compiles tokenalert from this tree, with flags of go build besides.
func build(ctx context.Context, to string, flags ...string) error {
	root, err := module.Root(ctx)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-o", path}, flags...), "./cmd/tokenalert")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build tokenalert: %w\n%s", err, out)
	}
	return nil
}

// buildInto compiles it into a folder, which it makes, and returns its path.
func buildInto(ctx context.Context, directory string) (string, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", err
	}
	path, err := filepath.Abs(filepath.Join(directory, "tokenalert")) // exec looks for a bare name in PATH
	if err != nil {
		return "", err
	}
	return path, build(ctx, path)
}

// fileID is a file's SHA-256.
func fileID(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
