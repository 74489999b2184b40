// Package docs holds the documents of this directory, for the program to serve them itself (internal/docpages).
package docs

import "embed"

// Files are the documents, as they lie in this directory.
//
//go:embed *.md adr/*.md
var Files embed.FS
