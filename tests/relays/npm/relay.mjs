// @nostr-relay/core on a port, with its events in memory: `node relay.mjs PORT`.
import common from "@nostr-relay/common";
import core from "@nostr-relay/core";
import { WebSocketServer } from "ws";

const { EventRepository, EventUtils } = common;

class Memory extends EventRepository {
  events = new Map();
  isSearchSupported() {
    return false;
  }
  upsert(event) {
    const d = event.tags.find(([name]) => name === "d")?.[1] ?? "";
    const replaced = event.kind >= 30000 && event.kind < 40000;
    const key = replaced ? `${event.kind}:${event.pubkey}:${d}` : event.id;
    const elder = this.events.get(key);
    const isDuplicate = elder !== undefined && elder.created_at >= event.created_at;
    if (!isDuplicate) this.events.set(key, event);
    return { isDuplicate };
  }
  deleteByDeletionRequest(request) {
    this.events.set(request.id, request);
  }
  find(filter) {
    const tags = Object.entries(filter).filter(([name]) => name.startsWith("#"));
    const tagged = (event) => tags.every(([name, values]) => event.tags.some((t) => t[0] === name[1] && values.includes(t[1])));
    const all = [...this.events.values()];
    const fitting = all.filter((event) => EventUtils.isMatchingFilter(event, filter) && tagged(event));
    return fitting.sort((a, b) => b.created_at - a.created_at).slice(0, Math.min(filter.limit ?? 100, 1000));
  }
  async destroy() {}
}

const relay = new core.NostrRelay(new Memory(), { filterResultCacheTtl: 0 });
new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]) }).on("connection", (socket) => {
  relay.handleConnection(socket);
  socket.on("message", (data) => relay.handleMessage(socket, JSON.parse(data)));
  socket.on("close", () => relay.handleDisconnect(socket));
});
