package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	"tokenalert/faults/lane"
	"tokenalert/internal/module"
)

// buildInto compiles it into a folder, which it makes, and returns its path.
func buildInto(ctx context.Context, directory string) (string, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", err
	}
	path, err := filepath.Abs(filepath.Join(directory, "tokenalert")) // exec looks for a bare name in PATH
	if err != nil {
		return "", err
	}
	return path, module.Build(ctx, path)
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

// openLane builds the binary into the directory, and starts a server to try it on.
func openLane(ctx context.Context, directory string) (*lane.Lane, error) {
	binary, err := buildInto(ctx, directory)
	if err != nil {
		return nil, err
	}
	return lane.New(ctx, lane.Options{Binary: binary, Directory: directory, Keep: true, BinDir: os.Getenv("PGTEST_BIN")})
}
