// Package spendflush makes the write path for spend safe at scale.
package spendflush
