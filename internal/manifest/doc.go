// Package manifest reads the pods of deploy/ as a kubelet would, so that tests
// start the containers' exact commands as processes, with their exact
// environment and their Secrets as files.
package manifest
