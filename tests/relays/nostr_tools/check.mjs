// Events as JSON on stdin; on stdout, by name, whether nostr-tools finds id and signature right.
import { readFileSync } from 'node:fs'
import { getEventHash, verifyEvent } from 'nostr-tools/pure'

const events = JSON.parse(readFileSync(0, 'utf8'))
const genuine = ([name, event]) => [name, getEventHash(event) === event.id && verifyEvent(event)]
console.log(JSON.stringify(Object.fromEntries(Object.entries(events).map(genuine))))
