BEGIN TRANSACTION;
CREATE TABLE accounts (
	id INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	key_hash VARCHAR, 
	hint VARCHAR NOT NULL, 
	revoked BOOLEAN NOT NULL, 
	available_msat INTEGER NOT NULL, 
	held_msat INTEGER NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT never_below_zero CHECK (kind = 'external' OR available_msat >= 0), 
	CONSTRAINT holds_are_positive CHECK (held_msat >= 0), 
	CONSTRAINT known_kind CHECK (kind IN ('key', 'node', 'external')), 
	UNIQUE (key_hash)
);
INSERT INTO "accounts" VALUES(1,'node','earnings',NULL,'',0,61234,0,0);
INSERT INTO "accounts" VALUES(2,'external','mints',NULL,'',0,-159000,0,0);
INSERT INTO "accounts" VALUES(3,'external','grants',NULL,'',0,-500000,0,0);
INSERT INTO "accounts" VALUES(4,'key','alice','1a5c8bdc602e9113a812903362e8d3cec13ba506e4ac64807b07dc816c59676d','sk-…nted',0,500000,0,1790000000);
INSERT INTO "accounts" VALUES(5,'key','bob','eeca818924b842ea90b63d59f24142902211daf3643a2dd341d71a071e229bc1','sk-…oked',1,0,0,1790000000);
INSERT INTO "accounts" VALUES(6,'key','',NULL,'token',0,0,97766,1790000000);
INSERT INTO "accounts" VALUES(7,'key','','838ef851595786bd1c603360005d3b01a4b7b7590716efdd20f14f16c04c136d','sk-…paid',0,0,0,1790000000);
CREATE TABLE deposits (
	id VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	account INTEGER, 
	state VARCHAR NOT NULL, 
	mint VARCHAR NOT NULL, 
	unit VARCHAR NOT NULL, 
	amount_msat INTEGER NOT NULL, 
	fee_msat INTEGER NOT NULL, 
	reason VARCHAR NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT deposit_state CHECK (state IN ('open', 'credited', 'failed')), 
	FOREIGN KEY(account) REFERENCES accounts (id)
);
INSERT INTO "deposits" VALUES('9e1c619b03de2e9dab7c526ac6788c1255a8eb82cd601c47717e6a8d519e29f5','open',6,'credited','https://mint.example','msat',99000,1000,'',1790000000);
INSERT INTO "deposits" VALUES('0352e0376e0c7c4b85f6b8a56cf8e41a184efe3c4746b77f8a1d5c9b7b5062e9','open',7,'credited','https://mint.example','msat',69000,1000,'',1790000000);
INSERT INTO "deposits" VALUES('30f11c3c48a790dc82714aff5666a922be1e969191a8f2ab320a45888f62e15b','topup',7,'credited','https://mint.example','msat',20000,0,'',1790000000);
INSERT INTO "deposits" VALUES('221b9afded2ff0c0c0a6e1e1ad6c298b5c79ed814a9c897d5b2e95f0b2beb56d','open',NULL,'failed','https://mint.example','msat',5000,0,'TokenSpent: gone',1790000000);
INSERT INTO "deposits" VALUES('da58398cf08e74c9f72380b9d23ff675bb7c06fc0827d2821552b0dd9b243b19','open',NULL,'open','https://mint.example','msat',7000,0,'',1790000000);
CREATE TABLE holds (
	id VARCHAR NOT NULL, 
	account INTEGER NOT NULL, 
	purpose VARCHAR NOT NULL, 
	amount_msat INTEGER NOT NULL, 
	posted_msat INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at INTEGER NOT NULL, 
	expires_at INTEGER, 
	PRIMARY KEY (id), 
	CONSTRAINT hold_amount CHECK (amount_msat >= 0), 
	CONSTRAINT never_above_the_hold CHECK (posted_msat >= 0 AND posted_msat <= amount_msat), 
	CONSTRAINT hold_state CHECK (state IN ('pending', 'posted', 'voided', 'expired')), 
	FOREIGN KEY(account) REFERENCES accounts (id)
);
INSERT INTO "holds" VALUES('req_0',6,'request',50000,1234,'posted',1790000010,1790000110);
INSERT INTO "holds" VALUES('req_1',7,'request',60000,60000,'posted',1790000010,1790000110);
INSERT INTO "holds" VALUES('req_2',4,'request',10000,0,'posted',1790000010,1790000110);
INSERT INTO "holds" VALUES('req_void',6,'request',40000,0,'voided',1790000010,1790000110);
INSERT INTO "holds" VALUES('req_crash',6,'request',30000,0,'pending',1790000010,1790000110);
INSERT INTO "holds" VALUES('refund_1',7,'refund',29000,29000,'posted',1790000010,NULL);
INSERT INTO "holds" VALUES('refund_open',6,'refund',67766,0,'pending',1790000010,NULL);
CREATE TABLE receipts (
	request_id VARCHAR NOT NULL, 
	account INTEGER NOT NULL, 
	content VARCHAR NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (request_id), 
	FOREIGN KEY(request_id) REFERENCES holds (id), 
	FOREIGN KEY(account) REFERENCES accounts (id)
);
INSERT INTO "receipts" VALUES('req_0',6,'{"v":1,"request_id":"req_0","model":"m","usage":{"prompt_tokens":10,"completion_tokens":617},"metered":"upstream","outcome":"complete","price":{"prompt_msat_per_mtok":0,"completion_msat_per_mtok":2000000,"request_msat":0},"hold_msat":50000,"cost_msat":1234,"balance_msat":97766}',1790000010);
INSERT INTO "receipts" VALUES('req_1',7,'{"v":1,"request_id":"req_1","model":"m","usage":{"prompt_tokens":10,"completion_tokens":30000},"metered":"upstream","outcome":"complete","price":{"prompt_msat_per_mtok":0,"completion_msat_per_mtok":2000000,"request_msat":0},"hold_msat":60000,"cost_msat":60000,"balance_msat":29000}',1790000010);
INSERT INTO "receipts" VALUES('req_2',4,'{"v":1,"request_id":"req_2","model":"m","usage":{"prompt_tokens":10,"completion_tokens":0},"metered":"upstream","outcome":"complete","price":{"prompt_msat_per_mtok":0,"completion_msat_per_mtok":2000000,"request_msat":0},"hold_msat":10000,"cost_msat":0,"balance_msat":500000}',1790000010);
CREATE TABLE refunds (
	id VARCHAR NOT NULL, 
	account INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	mint VARCHAR NOT NULL, 
	unit VARCHAR NOT NULL, 
	amount_msat INTEGER NOT NULL, 
	fee_msat INTEGER NOT NULL, 
	token VARCHAR NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT refund_state CHECK (state IN ('open', 'done', 'failed')), 
	CONSTRAINT refund_amount CHECK (amount_msat > 0), 
	FOREIGN KEY(id) REFERENCES holds (id), 
	FOREIGN KEY(account) REFERENCES accounts (id)
);
INSERT INTO "refunds" VALUES('refund_1',7,'done','https://mint.example','msat',29000,100,'cashuBgolden',1790000010);
INSERT INTO "refunds" VALUES('refund_open',6,'open','https://mint.example','msat',67766,0,'',1790000010);
CREATE TABLE transfers (
	id INTEGER NOT NULL, 
	debit INTEGER NOT NULL, 
	credit INTEGER NOT NULL, 
	amount_msat INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	reference VARCHAR NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT transfer_amount CHECK (amount_msat > 0), 
	CONSTRAINT two_sides CHECK (debit != credit), 
	CONSTRAINT once UNIQUE (kind, reference), 
	FOREIGN KEY(debit) REFERENCES accounts (id), 
	FOREIGN KEY(credit) REFERENCES accounts (id)
);
INSERT INTO "transfers" VALUES(1,3,4,500000,'grant','key:4',1790000000);
INSERT INTO "transfers" VALUES(2,2,6,99000,'deposit','9e1c619b03de2e9dab7c526ac6788c1255a8eb82cd601c47717e6a8d519e29f5',1790000000);
INSERT INTO "transfers" VALUES(3,2,7,69000,'deposit','0352e0376e0c7c4b85f6b8a56cf8e41a184efe3c4746b77f8a1d5c9b7b5062e9',1790000000);
INSERT INTO "transfers" VALUES(4,2,7,20000,'deposit','30f11c3c48a790dc82714aff5666a922be1e969191a8f2ab320a45888f62e15b',1790000000);
INSERT INTO "transfers" VALUES(5,6,1,1234,'charge','req_0',1790000010);
INSERT INTO "transfers" VALUES(6,7,1,60000,'charge','req_1',1790000010);
INSERT INTO "transfers" VALUES(7,7,2,29000,'refund','refund_1',1790000010);
CREATE INDEX ix_holds_account ON holds (account);
CREATE INDEX holds_pending ON holds (expires_at) WHERE state = 'pending';
CREATE INDEX transfers_credit ON transfers (credit, kind);
CREATE INDEX transfers_debit ON transfers (debit, kind);
CREATE TRIGGER transfers_no_UPDATE BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE TRIGGER transfers_no_DELETE BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE INDEX ix_receipts_account ON receipts (account);
CREATE INDEX refunds_account ON refunds (account, created_at);
COMMIT;
