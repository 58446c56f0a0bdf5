package main

import (
	"context"
	"os"
	"strings"
)

// laboratory plays a few schedules under faults on the PostgreSQL in bin.
func laboratory(ctx context.Context, root, bin string) (result, error) {
	dir, err := os.MkdirTemp("", "versions-faults-")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := command(ctx, root, bin, "go", "run", "./faults", "run", "--schedules", "10", "--directory", dir)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return result{failed: []test{{name: "faults", said: said.String()}}}, nil
	}
	return result{passed: 1}, nil
}
