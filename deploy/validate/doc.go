// Package validate has what `kubectl kustomize` makes of deploy/ looked at: by
// people, as golden files, and by a real API server, which is to take all of it
// without a warning and to keep every field, under the strictest Pod Security.
package validate
